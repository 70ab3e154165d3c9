"""Short names of models: the part of a path that tells models apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple, TypeVar

from oellm.core import display
from oellm.core.tables import Values
from oellm.manifest.argument_texts import split_pieces
from oellm.manifest.checkpoint_names import training_step
from oellm.manifest.model_spec import plain_path

NameKey = TypeVar("NameKey", bound=Hashable)

# The column whose values tables shorten.
_MODEL = "model_path"
# Last names of directories that do not name a model. A training step does not name one, either.
_PLAIN = ("hf", "checkpoints", "output")
# What a name begins with that lacks directories which not all models share.
_CUT = "…/"
# The number of these directories that a message names.
_NAMED = 3


class ModelName(NamedTuple):
    """A model as records name it: the columns model_path and model_revision."""

    path: str
    revision: str = ""

    @property
    def full_name(self) -> str:
        """The name that no other model has."""
        return f"{self.path} @ {self.revision}" if self.revision else self.path


def short_names(models: Iterable[ModelName]) -> dict[ModelName, str]:
    """Return a name for each model, as short as it can be and still tell it from the others.

    Absolute paths lose the directories that all of them begin with, and those that all of them end
    with; a path without others keeps its last directories, and so do paths that share only the
    root, as `…/run/iter_1000`. What remains names a model: `run/iter_1000`, not `iter_1000`. Hub
    ids lose their owner if it is that of all models. Models lose the arguments that all of them
    have, and show the revision only if nothing else tells two of them apart. Names that would
    still be equal are the full names.
    """
    models = list(dict.fromkeys(models))
    words = {model: _words(model.path) for model in models}
    shared = set.intersection(*(set(each[1:]) for each in words.values())) if models else set()
    paths = {path for path, *_ in words.values()}
    short_paths = _without_owner(paths) or _short_paths({p for p in paths if p.startswith("/")})
    names = {}
    for model, (path, *arguments) in words.items():
        kept = (argument for argument in arguments if argument not in shared)
        names[model] = ",".join([short_paths.get(path, path), *kept])
    counts = Counter(names.values())
    for model, name in names.items():
        if counts[name] > 1 and model.revision:
            names[model] = f"{name} @ {model.revision[:8]}"
    counts = Counter(names.values())
    return {m: name if counts[name] == 1 else m.full_name for m, name in names.items()}


def describe_left_out(names: Mapping[ModelName, str]) -> str:
    """Return what `short_names` left out of paths and arguments; empty if it is nothing."""
    frames: dict[str, None] = {}
    tops: dict[str, None] = {}
    dropped: dict[str, None] = {}
    for model, name in names.items():
        path, *arguments = model.path.split(",")
        shown, *kept = name.partition(" @ ")[0].split(",")
        if shown.startswith(_CUT):
            tops[path.removesuffix(shown.removeprefix(_CUT))] = None
        elif path != shown and shown in path:
            before, _, after = path.rpartition(shown)
            frames[f"{before}…{after}" if after else before] = None
        dropped |= dict.fromkeys(argument for argument in arguments if argument not in kept)
    shared = ", ".join([*frames, *dropped])
    first = ", ".join(list(tops)[:_NAMED])
    if len(tops) > _NAMED:
        first += f" and {len(tops) - _NAMED} more"
    left_out = [f"what all models share: {shared}"] if shared else []
    left_out += [f"the directories that they are in: {first}"] if tops else []
    return f"names of models lack {'; and '.join(left_out)}" if left_out else ""


def shorten_models(rows: Iterable[Values], columns: Sequence[str]) -> tuple[list[Values], str]:
    """Return rows with short names in the column model_path, and `describe_left_out` of them."""
    whole = list(rows)
    places = [place for place, column in enumerate(columns) if column == _MODEL]
    short = short_names(ModelName(row[place]) for row in whole for place in places)
    found = {model.path: name for model, name in short.items()}
    shown: list[Values] = [
        [found[value] if place in places else value for place, value in enumerate(row)]
        for row in whole
    ]
    return shown, describe_left_out(short)


def shorten_names(names: Mapping[NameKey, str], width: int) -> dict[NameKey, str]:
    """Return names of at most `width` letters, without their middles if they are longer.

    Names that would become equal stay whole.
    """
    cut = {key: display.shorten_middle(name, width) for key, name in names.items()}
    counts = Counter(cut.values())
    return {key: cut[key] if counts[cut[key]] == 1 else name for key, name in names.items()}


def fit_names(names: Mapping[NameKey, str], width: int) -> dict[NameKey, str]:
    """Return distinct names of at most `width` letters; a number tells cut names apart."""
    return dict(zip(names, _numbered(names.values(), width), strict=True))


def _words(cell: str) -> list[str]:
    """Return the path of a model's cell and its arguments, `key=value` each."""
    path, *arguments = split_pieces(cell)
    return [plain_path(path), *arguments]


def _without_owner(paths: Collection[str]) -> dict[str, str]:
    """Return hub ids without their owner; nothing if not all paths are ids of one owner."""
    owners = {owner for owner, *rest in (path.split("/") for path in paths) if len(rest) == 1}
    if len(paths) < 2 or len(owners) != 1 or "" in owners:
        return {}
    begin = f"{owners.pop()}/"
    if not all(path.startswith(begin) and path.count("/") == 1 for path in paths):
        return {}
    return {path: path.removeprefix(begin) for path in paths}


def _short_paths(paths: Iterable[str]) -> dict[str, str]:
    """Return what remains of each absolute path."""
    parts = {path: path.strip("/").split("/") for path in paths}
    if len(parts) == 1:
        return {path: "/".join(names[-_needed(names) :]) for path, names in parts.items()}
    common = _agreement(parts.values())
    if not common:
        return _last_parts(parts)
    # Each path keeps enough to name a model, also one that another path begins with.
    start = min(common, *(len(names) - _needed(names) for names in parts.values()))
    rest = {path: names[start:] for path, names in parts.items()}
    stop = min(
        _agreement([names[::-1] for names in rest.values()]),
        *(len(names) - 1 for names in rest.values()),
    )
    return {path: "/".join(names[: len(names) - stop]) for path, names in rest.items()}


def _last_parts(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the last directories of each path, as many of all as it takes to tell them apart."""
    longest = max(map(len, parts.values()), default=0)
    for size in range(1, longest + 1):
        tails = {path: names[-max(size, _needed(names)) :] for path, names in parts.items()}
        if len(set(map(tuple, tails.values()))) == len(parts):
            # Without the mark, some would look like hub ids.
            return {
                path: path if len(tail) == len(parts[path]) else _CUT + "/".join(tail)
                for path, tail in tails.items()
            }
    return {}


def _needed(names: Sequence[str]) -> int:
    """Return how many last names of a path it takes to name a model."""
    steps = takewhile(
        lambda name: name in _PLAIN or training_step(name) is not None, reversed(names)
    )
    return min(len(names), 1 + sum(1 for _ in steps))


def _agreement(lists: Iterable[Sequence[str]]) -> int:
    """Return how many words all lists begin with."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False)))


def _numbered(names: Iterable[str], width: int) -> Iterator[str]:
    taken: set[str] = set()
    for name in names:
        label, number = display.shorten_middle(name, width), 1
        while label in taken:
            number += 1
            ending = f" #{number}"
            label = display.shorten_middle(name, width - len(ending)) + ending
        taken.add(label)
        yield label
