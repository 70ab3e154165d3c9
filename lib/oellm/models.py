"""Model cells (`path,key=value`), lists of them, and directories of checkpoints."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator

from oellm.errors import InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Directory levels below the given one in which checkpoints are looked for: DIR/NAME/hf/iter_1.
_CHECKPOINT_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model as a manifest names it: a local directory or hub id, and its model arguments."""

    path: str
    arguments: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Parse `path,key=value,…`; raises ValueError for anything else."""
        path, *rest = text.split(",")
        pairs = []
        for piece in rest:
            key, equals, value = piece.partition("=")
            if not equals or not key.strip():
                raise ValueError(f"expected key=value after the model's path, got {piece!r}")
            pairs.append((key.strip(), value.strip()))
        if not path.strip():
            raise ValueError(f"expected a model path or hub id, got {text!r}")
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"expected each model argument once, got {text!r}")
        return cls(path.strip(), tuple(pairs))

    def __str__(self) -> str:
        return ",".join([self.path, *(f"{key}={value}" for key, value in self.arguments)])

    @property
    def is_local(self) -> bool:
        """Whether the path names a directory rather than a hub id."""
        return looks_local(self.path)

    def at(self, path: str) -> ModelSpec:
        """Return the same arguments with another path."""
        return dataclasses.replace(self, path=path)


def looks_local(path: str) -> bool:
    """Return whether `path` is a path on this machine: written as one, or an existing directory."""
    return path.startswith(("/", "./", "../", "~")) or path in (".", "..") or os.path.isdir(path)


def split_models(text: str) -> list[ModelSpec]:
    """Split a comma-separated list of models; `key=value` belongs to the model before it."""
    cells: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if not piece:
            continue
        if cells and re.match(r"[A-Za-z_]\w*=", piece):
            cells[-1] += f",{piece}"
        else:
            cells.append(piece)
    return [ModelSpec.parse(cell) for cell in cells]


def expand(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Yield the model itself, or the checkpoints below its directory in natural order.

    Local paths become absolute. Raises InputError where the path holds no model.
    """
    if not spec.is_local:
        if not _HUB_ID.fullmatch(spec.path):
            raise InputError(f"{spec.path!r} is neither a directory nor a hub id (org/name)")
        yield spec
        return
    root = os.path.abspath(os.path.expanduser(spec.path))
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such directory")
    found = sorted(_checkpoints(root, _CHECKPOINT_DEPTH), key=natural_key)
    if not found:
        raise InputError(f"{root}: no model here: no config.json in it or in directories below it")
    for path in found:
        if "," in path or path != path.strip():
            raise InputError(f"{path!r}: a model's path cannot have a comma, or blanks at its ends")
        yield spec.at(path)


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Return a sort key that orders numbers by value: iter_2000 before iter_10000."""
    return [
        (1, int(part), "") if part.isdecimal() else (0, 0, part)
        for part in re.split(r"([0-9]+)", path)
    ]


def training_step(path: str, revision: str = "") -> int | None:
    """Return the training step that a checkpoint's name or revision gives, if it gives one.

    Reads `iter_0001000`, `step100000`, `global_step500`, `checkpoint-500`; the last directory of
    the path that gives one counts, and the revision before the path.
    """
    for name in [revision, *reversed(path.split("/"))]:
        match = re.search(
            r"(?:^|[_.-])(?:iter|(?:global_?)?step|checkpoint)[_-]?([0-9]+)(?![0-9])", name
        )
        if match:
            return int(match.group(1))
    return None


def _checkpoints(directory: str, depth: int) -> Iterator[str]:
    if os.path.isfile(os.path.join(directory, "config.json")):
        yield directory
    elif depth:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir() and not entry.name.startswith("."):
                    yield from _checkpoints(entry.path, depth - 1)
