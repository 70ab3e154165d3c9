"""Whether the model in a directory can be loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping

from oellm.core.regular_files import read_regular
from oellm.models import weights

# A file with one of these in its name counts as a tokenizer's; each family has its own names.
_TOKENIZER_MARKS = (
    *("tokeniz", "vocab", ".model", "tiktoken", "tekken", "bpe", ".spm", "merges"),
    *("byte_maps.json", "dict.txt"),
)
# An empty one of these is half-written.
_NEVER_EMPTY = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def find_directory_problem(
    directory: str, arguments: Mapping[str, str], names: Collection[str] | None = None
) -> str | None:
    """Return why the model in a directory cannot be loaded with these arguments, or None if it can.

    `names` are the names in the directory, or in its subfolder that the arguments name, if the
    caller knows them. Reads only the headers of weights.
    """
    subfolder = arguments.get("subfolder", "")
    inner = os.path.join(directory, subfolder)
    try:
        found = _find_problem(inner, arguments, os.listdir(inner) if names is None else names)
    except OSError as error:
        name = "" if error.filename == inner else f"{os.path.basename(str(error.filename))}: "
        found = f"{name}{error.strerror}"
    return f"{subfolder}: {found}" if subfolder and found else found


def is_tokenizer_file(name: str) -> bool:
    """Return whether a file in a model's directory counts as its tokenizer's."""
    return any(mark in name.lower() for mark in _TOKENIZER_MARKS)


def _find_problem(
    directory: str, arguments: Mapping[str, str], names: Collection[str]
) -> str | None:
    if arguments.get("gguf_file"):
        return weights.find_file_problem(directory, arguments["gguf_file"])
    if not any(weights.weight_files(names)):
        if "adapter_config.json" in names:
            return (
                "a PEFT adapter, not a model: name its base model, followed by `,peft=` and this "
                "directory"
            )
        if any(name.endswith(".gguf") for name in names):
            return "add `,gguf_file=NAME` to say which GGUF file"
    if "config.json" not in names:
        return "no config.json"
    try:
        config = json.loads(read_regular(os.path.join(directory, "config.json"), any_link=True))
    except (ValueError, RecursionError):
        return "config.json: it is not JSON"
    if not isinstance(config, dict):
        return "config.json: expected a JSON object"
    chosen = str(config.get("transformers_weights") or "")
    found = weights.find_weights_problem(directory, names, chosen)
    return found or (None if "tokenizer" in arguments else _tokenizer_problem(directory, names))


def _tokenizer_problem(directory: str, names: Collection[str]) -> str | None:
    if not any(map(is_tokenizer_file, names)):
        return "no tokenizer: add `,tokenizer=NAME`"
    for name in _NEVER_EMPTY:
        if name in names and not os.path.getsize(os.path.join(directory, name)):
            return f"{name}: the file is empty"
    return None
