"""Which files of a model repository a backend loads."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator

from oellm.hub.repositories import HubModel

# Formats of weights. If a directory has several, the first of these is loaded.
_LOADED = ((".safetensors",), (".bin",), (".pt", ".pth", ".ckpt"))
# Formats that no backend here loads, except a GGUF file that the model's arguments name.
_FOREIGN = (
    ".gguf",
    ".h5",
    ".msgpack",
    ".ot",
    ".onnx",
    ".onnx_data",
    ".mlmodel",
    ".tflite",
    ".nemo",
    ".npz",
    ".pkl",
)
_WEIGHTS = (*(ending for endings in _LOADED for ending in endings), *_FOREIGN)
# Files that training leaves behind beside the weights.
_LEFT_BEHIND = (
    "optimizer*",
    "scheduler.*",
    "training_args.bin",
    "rng_state*",
    "random_states_*",
    "*_optim_states.*",
    "events.out.tfevents.*",
)
# A copy in another precision: model.fp16.safetensors, model.fp16-00001-of-00002.safetensors.
_VARIANT = re.compile(
    r"(?:pytorch_)?model(?:-[0-9]+-of-[0-9]+)?\.(?P<name>[^.]+?)(?:-[0-9]+-of-[0-9]+)?"
    r"\.(?:safetensors|bin)"
)


def select_files(names: Iterable[str], model: HubModel) -> list[str]:
    """Return those of a repository's files that evaluating a model needs.

    Selects the weights that are loaded: one format, in one directory; none if `model.weights` is
    false. Selects all other files (configuration, tokenizer, templates, code) except those that
    training left behind and those in the directory of another model.
    """
    kept = [name for name in names if not _is_left_behind(os.path.basename(name))]
    others = _other_models(kept, model)
    loaded = set(_loaded([name for name in kept if name.endswith(_WEIGHTS)], model))
    return [
        name
        for name in kept
        if name in loaded or (not name.endswith(_WEIGHTS) and others.isdisjoint(_parents(name)))
    ]


def _is_left_behind(base: str) -> bool:
    return any(fnmatch.fnmatchcase(base, pattern) for pattern in _LEFT_BEHIND)


def _other_models(names: Iterable[str], model: HubModel) -> set[str]:
    """Return the directories that hold another model than the wanted one."""
    marks = (name for name in names if _is_config(name) or name.endswith(_WEIGHTS))
    own = {"", *_parents(os.path.join(model.subfolder, "config.json"))}
    return {os.path.dirname(name) for name in marks} - own


def _is_config(name: str) -> bool:
    return os.path.basename(name) == "config.json"


def _parents(name: str) -> Iterator[str]:
    """Yield the directories above a file, innermost first, without the topmost."""
    while (name := os.path.dirname(name)).strip("/"):
        yield name


def _loaded(weights: list[str], model: HubModel) -> Iterator[str]:
    if model.gguf_file:
        yield model.gguf_file
    elif model.weights:
        here = [name for name in weights if os.path.dirname(name) == model.subfolder]
        adapters = [name for name in here if os.path.basename(name).startswith("adapter_")]
        yield from _in_best_format(adapters, model.variant)
        yield from _in_best_format(sorted(set(here) - set(adapters)), model.variant)


def _in_best_format(names: list[str], variant: str) -> list[str]:
    for endings in _LOADED:
        if found := [name for name in names if name.endswith(endings)]:
            return _of_variant(found, variant)
    return []


def _of_variant(names: list[str], variant: str) -> list[str]:
    """Leave out copies in other precisions and in the format of the model's makers."""
    matches = {name: _VARIANT.fullmatch(os.path.basename(name)) for name in names}
    variants = {name: match["name"] if match else "" for name, match in matches.items()}
    copies = [name for name in names if os.path.basename(name).startswith("consolidated")]
    chosen = [name for name in names if variants[name] == variant and name not in copies]
    return chosen or names
