"""Short names of models: what tells them apart, for tables in which each of them is a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from oellm.core import display

# Letters of a name.
_WIDTH = 48


# Directories in the name of the only path: the last may be `hf`, the one before it a step.
_OF_ONE = 3


class Model(NamedTuple):
    """A model as records name it: cells of their columns model_path and model_revision."""

    path: str
    revision: str

    @property
    def full_name(self) -> str:
        """The name that no other model has."""
        return f"{self.path} @ {self.revision}" if self.revision else self.path


def short_names(models: Sequence[Model]) -> dict[Model, str]:
    """Return a name for each model, without what all of them have in common.

    Of absolute paths these are directories at the beginning and the end, of model arguments those
    that every model has. A hub id stays whole. The revision is there only where nothing else tells
    two models apart. Of a long name the middle is left out. Names that would still be the same
    are the full ones.
    """
    words = {model: model.path.split(",") for model in models}
    shared = set.intersection(*(set(each[1:]) for each in words.values())) if models else set()
    paths = sorted({each[0] for each in words.values() if each[0].startswith("/")})
    short = _without_common_ends(paths)
    names = {}
    for model, (path, *arguments) in words.items():
        kept = (argument for argument in arguments if argument not in shared)
        names[model] = ",".join([short.get(path, path), *kept])
    counts = Counter(names.values())
    for model, name in names.items():
        if counts[name] > 1 and model.revision:
            names[model] = f"{name} @ {model.revision[:8]}"
    names = {model: display.shorten_middle(name, _WIDTH) for model, name in names.items()}
    counts = Counter(names.values())
    return {m: name if counts[name] == 1 else m.full_name for m, name in names.items()}


def _without_common_ends(paths: Sequence[str]) -> dict[str, str]:
    """Return what is left of each path; of one path alone its last directories."""
    parts = [path.strip("/").split("/") for path in paths]
    if len(parts) < 2:
        return {path: "/".join(each[-_OF_ONE:]) for path, each in zip(paths, parts, strict=True)}
    begin = _agreement(parts)
    # Something is left also of a path that is the beginning of another.
    begin = min(begin, *(len(each) - 1 for each in parts))
    rest = [each[begin:] for each in parts]
    end = min(_agreement([each[::-1] for each in rest]), *(len(each) - 1 for each in rest))
    return {path: "/".join(each[: len(each) - end]) for path, each in zip(paths, rest, strict=True)}


def _agreement(lists: Iterable[Sequence[str]]) -> int:
    """Return how many words all lists begin with."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False)))


# Last names of directories that say nothing of the model in them.
_PLAIN = ("hf", "checkpoints", "output")


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
        label, number = display.shorten_middle(text, width), 1
        while label in taken:
            number += 1
            ending = f" #{number}"
            label = display.shorten_middle(text, width - len(ending)) + ending
        taken.add(label)
        yield label
