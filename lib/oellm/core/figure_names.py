"""Names in figures: of files, as text that can be shown, and of models as short as they can be."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

# What XML cannot hold, and control characters, which no font has.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Last names of directories that say nothing of the model in them.
_PLAIN = ("hf", "checkpoints", "output")
# Characters of a file's name, without its suffix.
_LONGEST = 100


def shown(text: str, width: int) -> str:
    """Return text on one line; what is longer than `width` has its middle replaced by `…`."""
    text = _UNSHOWN.sub("\ufffd", " ".join(text.split()))
    if extent(text) <= width:
        return text
    head, tail = text, text
    while extent(head) > width // 2:
        head = head[:-1]
    while extent(tail) > width - width // 2 - 1:
        tail = tail[1:]
    return f"{head}…{tail}"


def extent(text: str) -> int:
    """Return how wide a text is, in letters: Chinese ones are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def thousands(number: float) -> str:
    """Return a number as axes have it: 500, 1.5k, 2M."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.6g}{letter}"
    return f"{number:.6g}"


def model_labels(models: Iterable[str], width: int) -> dict[str, str]:
    """Return a label for each model: as many of its path's last names as tell it from the others.

    Arguments are left out where the paths are distinct. No label is wider than `width`, and no two
    are the same.
    """
    names = list(dict.fromkeys(models))
    paths = [name.partition(",")[0] for name in names]
    if len(set(paths)) < len(names):
        paths = names
    endings = Counter(ending for path in paths for ending in _endings(path))
    texts = [
        next((ending for ending in _endings(path) if endings[ending] == 1), path) for path in paths
    ]
    return dict(zip(names, _distinct(texts, width), strict=True))


def _endings(path: str) -> Iterator[str]:
    """Yield the last names of a path, one more each time, never a plain one alone."""
    names = path.split("/")
    at_least = 2 if names[-1] in _PLAIN and len(names) > 1 else 1
    for place in reversed(range(len(names) - at_least + 1)):
        yield "/".join(names[place:])


def _distinct(texts: Iterable[str], width: int) -> Iterator[str]:
    """Yield texts as they can be shown, with a number where shortened ones are the same."""
    taken: set[str] = set()
    for text in texts:
        label, number = shown(text, width), 1
        while label in taken:
            number += 1
            ending = f" #{number}"
            label = shown(text, width - len(ending)) + ending
        taken.add(label)
        yield label


class FileNames:
    """Names of files that every file system takes, no two the same but for capitals."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, kind: str, text: str = "") -> str:
        """Return `kind-text` with what is not a plain letter, digit, dot or underscore as `-`."""
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{kind} {text}").strip("-.")
        plain = plain[:_LONGEST].rstrip("-.")
        name, number = plain, 1
        while name.lower() in self._taken:
            number += 1
            ending = f"-{number}"
            name = plain[: _LONGEST - len(ending)] + ending
        self._taken.add(name.lower())
        return name
