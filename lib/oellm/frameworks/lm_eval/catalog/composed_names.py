"""Files whose paths code puts together from texts: `HERE / "data" / f"{language}.jsonl"`.

Nothing is run: each text of the code that is a directory may hold any of the others, and a gap in a
name stands for anything.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

# What code fills in: `{language}`, `%s`, `*`.
_GAP = re.compile(r"\{[^{}]*\}|%[sd]|\*+")
_ENDING = re.compile(r"[^ ]*\.\w{1,8}")
# Other tasks lie beside the code, which count only if they are named.
_DEFINITIONS = (".py", ".yaml", ".yml")
# What somebody else's code names must not make anybody search a file system.
_MOST_PLACES = 50
_MOST_PATTERNS = 100
_MOST_LISTED = 300
_MOST_FILES = 300
# How deep below the code directories are looked for.
_DEPTH = 3


def find_files(texts: Collection[str], beside: Iterable[str]) -> Iterator[str]:
    """Yield the paths that texts may be put together to, below `beside` or absolute: the first 300.

    Whole names of what lies directly in `beside` are left out.
    """
    return itertools.islice(_all_files(texts, beside), _MOST_FILES)


def _all_files(texts: Collection[str], beside: Iterable[str]) -> Iterator[str]:
    near = list(dict.fromkeys(beside))
    patterns = sorted(filter(None, map(_pattern, texts)))[:_MOST_PATTERNS]
    directories = _Directories()
    for place in _places(sorted(texts), near, directories):
        wanted = [] if place in near else sorted(directories.names(place).intersection(texts))
        paths = [os.path.join(place, name) for name in wanted]
        for pattern in patterns:
            paths += directories.matches(place, pattern.split("/"))
        yield from paths


class _Directories:
    """The names in directories, each listed once; after many, further ones seem to be empty."""

    def __init__(self) -> None:
        self._known: dict[str, frozenset[str]] = {}

    def names(self, directory: str) -> frozenset[str]:
        if directory not in self._known:
            if len(self._known) >= _MOST_LISTED:
                return frozenset()
            try:
                self._known[directory] = frozenset(os.listdir(directory))
            except OSError:
                self._known[directory] = frozenset()
        return self._known[directory]

    def matches(self, place: str, parts: Sequence[str]) -> list[str]:
        """Return the paths below a directory that match a pattern, sorted; one part for a name."""
        names = sorted(fnmatch.filter(self.names(place), parts[0]))
        paths = [os.path.join(place, name) for name in names]
        if len(parts) == 1:
            return paths
        return [path for below in paths for path in self.matches(below, parts[1:])]


def _pattern(text: str) -> str:
    """Return the pattern of the files that a text with a gap means; empty if it has none."""
    pattern = _GAP.sub("*", f"*{text}" if text.startswith(".") else text)
    # A directory that the code knows: its own, or one that another text names.
    pattern = pattern.removeprefix("*/")
    if "*" not in pattern and pattern == text:
        return ""
    is_name = _ENDING.fullmatch(pattern) and not os.path.isabs(pattern)
    return pattern if is_name and not pattern.endswith(_DEFINITIONS) else ""


def _places(texts: list[str], near: list[str], directories: _Directories) -> list[str]:
    """Return the directories that texts name, the ones in `near` first."""
    # The directories at the top are those of everybody.
    absolute = [text for text in texts if os.path.isabs(text) and text.strip("/").count("/")]
    firsts = {text.split("/")[0] for text in texts}
    found = dict.fromkeys(near)
    level = [*near, *filter(_is_directory, absolute[:_MOST_PLACES])]
    for _ in range(_DEPTH):
        found |= dict.fromkeys(level)
        level = [
            os.path.join(place, name)
            for place in level[:_MOST_PLACES]
            for name in sorted(directories.names(place) & firsts)
            if name != "__pycache__" and _is_directory(os.path.join(place, name))
        ]
    return list(found)[:_MOST_PLACES]


def _is_directory(path: str) -> bool:
    return "\0" not in path and os.path.isdir(path)
