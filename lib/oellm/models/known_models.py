"""The models that this machine has, for people who are to choose some."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from oellm.hub import cache

# How deep below a directory models are looked for, and among how many directories.
_DEPTH = 3
_MOST_DIRECTORIES = 2000


def list_known_models(hf_home: str, directories: Iterable[str]) -> list[str]:
    """Return the models of the hub that the cache has, and the models below some directories."""
    return [*cache.list_models(os.path.join(hf_home, "hub")), *_models_below(directories)]


def _models_below(directories: Iterable[str]) -> Iterator[str]:
    """Yield the directories below others that have a model's configuration."""
    for top in directories:
        waiting = [(Path(top), 0)]
        for directory, depth in waiting:
            if (directory / "config.json").is_file():
                yield str(directory)
            elif depth < _DEPTH and len(waiting) < _MOST_DIRECTORIES:
                waiting += [(each, depth + 1) for each in _subdirectories(directory)]


def _subdirectories(path: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        return []
