"""Files whose paths code puts together from texts: `HERE / "data" / f"{language}.jsonl"`.

Nothing is run: each text of the code that is a directory may hold any of the others, and a gap in a
name stands for anything.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Iterator

# What code fills in: `{language}`, `%s`, `*`.
_GAP = re.compile(r"\{[^{}]*\}|%[sd]|\*+")
_ENDING = re.compile(r"[^ ]*\.\w{1,8}")
# Other tasks lie beside the code, which count only if they are named.
_DEFINITIONS = (".py", ".yaml", ".yml")
_MOST_PLACES = 50
_MOST_FILES = 400
# How deep below the code directories are looked for.
_DEPTH = 3


def find_files(texts: Collection[str], beside: Iterable[str]) -> Iterator[str]:
    """Yield the paths that texts may be put together to, below `beside` or absolute.

    Whole names of what lies directly in `beside` are left out.
    """
    near = list(dict.fromkeys(beside))
    patterns = sorted(filter(None, map(_pattern, texts)))
    for place in _places(sorted(texts), near):
        wanted = [] if place in near else sorted(_entries(place).intersection(texts))
        paths = [os.path.join(place, name) for name in wanted]
        for pattern in patterns:
            paths += sorted(glob.glob(os.path.join(glob.escape(place), pattern)))
        yield from paths[:_MOST_FILES]


def _pattern(text: str) -> str:
    """Return the pattern of the files that a text with a gap means; empty if it has none."""
    pattern = _GAP.sub("*", f"*{text}" if text.startswith(".") else text)
    # A directory that the code knows: its own, or one that another text names.
    pattern = pattern.removeprefix("*/")
    if "*" not in pattern and pattern == text:
        return ""
    is_name = _ENDING.fullmatch(pattern) and not os.path.isabs(pattern)
    return pattern if is_name and not pattern.endswith(_DEFINITIONS) else ""


def _places(texts: list[str], near: list[str]) -> list[str]:
    """Return the directories that texts name, the ones in `near` first."""
    # The directories at the top are those of everybody.
    absolute = [text for text in texts if os.path.isabs(text) and text.strip("/").count("/")]
    found = dict.fromkeys(near)
    level = [*near, *filter(_is_directory, absolute)]
    for _ in range(_DEPTH):
        found |= dict.fromkeys(level)
        level = [
            os.path.join(place, text)
            for place in level
            for text in _entries(place).intersection(text.split("/")[0] for text in texts)
            if text != "__pycache__" and _is_directory(os.path.join(place, text))
        ]
    return list(found)[:_MOST_PLACES]


def _is_directory(path: str) -> bool:
    return "\0" not in path and os.path.isdir(path)


def _entries(directory: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()
