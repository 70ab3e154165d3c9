"""Words that take long to find, kept on disk for the next TAB."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import oellm
from oellm.core import atomic, json_codec
from oellm.core.paths import cache_directory


def cached_words(name: str, find: Callable[[], list[str]]) -> list[str]:
    """Return what `find` returned in this environment since one of its caches last changed.

    An empty answer is not kept: the caches may be filled at any time.
    """
    directory = cache_directory(os.environ)
    path = directory / f"words-{os.geteuid()}" / f"{name}.json"
    key = [oellm.__version__, sys.prefix, *map(_changed, _signs(directory))]
    kept = json_codec.read_cached(path)
    if isinstance(kept, dict) and kept.get("key") == key and isinstance(kept.get("words"), list):
        return [word for word in kept["words"] if isinstance(word, str)]
    if words := find():
        # Without a cache, the next TAB takes as long.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(path, json_codec.dumps({"key": key, "words": words}))
    return words


def _signs(directory: Path) -> list[Path]:
    """Return what changes with the words: indices of tasks, and installed packages."""
    package = Path(oellm.__file__).parent
    indices = [directory / f"tasks-{user}" for user in {os.geteuid(), 0}]
    return [*indices, package, package.parent]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
