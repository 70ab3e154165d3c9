"""Model cells (`path,key=value`), and lists of them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable

# Arguments that are secret. Everybody can read manifests and run directories.
_SECRET = ("token", "use_auth_token", "hf_token", "api_key")


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
        require_no_secret(dict(pairs))
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


def require_no_secret(arguments: Iterable[str]) -> None:
    """Raise ValueError if one of these arguments of a model is a secret."""
    for name in arguments:
        if name.lower() in _SECRET:
            raise ValueError(
                f"expected no argument {name!r}: files would show it; "
                "set the environment variable HF_TOKEN instead"
            )


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
