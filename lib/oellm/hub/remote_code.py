"""Code that belongs to a model and is in another repository."""

from __future__ import annotations

import json
import os

# Files that name the classes of a model.
_CONFIGURATIONS = ("config.json", "tokenizer_config.json")


def repositories(directory: str) -> list[str]:
    """Return the repositories whose code a model's configuration names, each once.

    `"auto_map": {"AutoConfig": "org/name--module.Class"}`; a tokenizer has two classes, or null.
    """
    references = (
        str(reference)
        for name in _CONFIGURATIONS
        for classes in _auto_map(os.path.join(directory, name)).values()
        for reference in (classes if isinstance(classes, list) else [classes])
    )
    return list(dict.fromkeys(text.split("--")[0] for text in references if "--" in text))


def _auto_map(path: str) -> dict[str, object]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)["auto_map"]
    except (OSError, ValueError, LookupError, TypeError):
        # No such file, or none that names a class; whether it can be loaded is not asked here.
        return {}
    return found if isinstance(found, dict) else {}
