"""The repositories of the hub that a row needs, those of remote code included."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from oellm.core.regular_files import read_regular
from oellm.manifest.argument_texts import COMPANIONS
from oellm.manifest.model_spec import ModelSpec
from oellm.manifest.rows import Row

# Files that name the classes of a model.
_CONFIGURATIONS = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class HubModel:
    """A model repository to download.

    Attributes:
        path: Its name on the hub, org/name.
        revision: A branch, tag or commit; empty for the default branch.
        gguf_file, subfolder, variant: The model's arguments that choose among its files.
        weights: Whether its weights are needed, besides configuration, tokenizer and code.
        remote_code: Whether its code is run, which may be in another repository.
    """

    path: str
    revision: str
    gguf_file: str = ""
    subfolder: str = ""
    variant: str = ""
    weights: bool = True
    remote_code: bool = False

    def __str__(self) -> str:
        return f"{self.path}@{self.revision}" if self.revision else self.path


def row_repositories(row: Row) -> Iterator[HubModel]:
    """Yield the repositories that a row's model needs: first its own, unless it is local."""
    spec = row.model
    arguments = row.model_arguments
    names = ("gguf_file", "subfolder", "variant")
    gguf_file, subfolder, variant = (str(arguments.get(name, "")).strip("/") for name in names)
    trusted = str(arguments.get("trust_remote_code", "")).lower() in ("true", "1")
    runs_code = trusted or bool(row.value("trust_remote_code"))
    if not spec.is_local:
        revision = row["model_revision"] or str(arguments.get("revision", "")) or "main"
        yield HubModel(
            spec.path,
            revision,
            gguf_file=gguf_file,
            subfolder=subfolder,
            variant=variant,
            remote_code=runs_code,
        )
    elif runs_code:
        for name in find_code_repositories(os.path.join(spec.path, subfolder)):
            yield HubModel(name, "", weights=False)
    for name in COMPANIONS:
        companion = ModelSpec(str(arguments.get(name, "")))
        if companion.path and not companion.is_local:
            needs_weights = name != "tokenizer"
            yield HubModel(companion.path, "", weights=needs_weights, remote_code=runs_code)


def find_code_repositories(directory: str) -> list[str]:
    """Return the repositories whose code a model's configuration names, each once.

    It names them so: `"auto_map": {"AutoConfig": "org/name--module.Class"}`. A tokenizer has a list
    of two classes, of which one may be null.
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
        found = json.loads(read_regular(path, any_link=True))["auto_map"]
    except (OSError, ValueError, LookupError, TypeError):
        # No such file, or it names no class. Other code checks whether it can be loaded.
        return {}
    return found if isinstance(found, dict) else {}
