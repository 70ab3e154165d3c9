"""Directories of checkpoints: what they hold, which are selected, whether they can be loaded."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from oellm.errors import UsageError
from oellm.manifest.checkpoint_names import StepNames, is_step_number, natural_key
from oellm.models import weights
from oellm.models.model_directory import find_directory_problem

# Checkpoints are searched this number of levels below the given directory: DIR/NAME/hf/iter_1.
_DEPTH = 3
# Training steps that a message names.
_STEPS_SHOWN = 3
# Numbers that are names of checkpoints have at least this in common, and are no years.
_LEAST_INTERVAL = 10
_YEARS = range(1990, 2100)
_USUAL_NAMES = StepNames()


class Checkpoint(NamedTuple):
    """A directory that holds a model, or should by its name.

    Attributes:
        path: The directory.
        names: The names in it, or in the subfolder that the model's arguments name.
        error: Why it could not be read; empty if it was.
        step: The training step that its path tells, by itself or beside the others of its run.
    """

    path: str
    names: frozenset[str] = frozenset()
    error: str = ""
    step: int | None = None


# The checkpoints of one training run, in natural order.
TrainingRun = list[Checkpoint]


class Holding(NamedTuple):
    """What a directory holds.

    Attributes:
        model: The directory itself, if it is a model.
        runs: Otherwise, the training runs below it.
        unreadable: Directories that may hold more, as `path: why`.
        links: Symbolic links that lead to models that are there already.
    """

    model: Checkpoint | None
    runs: list[TrainingRun]
    unreadable: list[str]
    links: int = 0


class CheckpointSelection(NamedTuple):
    """Which checkpoints of each training run are selected: all, or the union of what is given.

    Attributes:
        every: Each of these N selects every Nth checkpoint.
        steps: Training steps.
        last: Whether to select the last checkpoint.
    """

    every: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    last: bool = False

    @classmethod
    def parse(cls, texts: Sequence[str]) -> CheckpointSelection:
        """Parse lists of `every=N`, `last` and training steps, separated by commas.

        No list selects all. Raises UsageError for other words and for empty lists.
        """
        every: list[int] = []
        steps: list[int] = []
        last = False
        pieces = [piece.strip() for text in texts for piece in text.split(",")]
        # An empty list comes from an unset variable in a script; it does not mean all.
        for piece in [piece for piece in pieces if piece] or pieces[:1]:
            match = re.fullmatch(r"(every=0*(?=[1-9]))?([0-9]+)", piece)
            if piece == "last":
                last = True
            elif match:
                (every if match.group(1) else steps).append(int(match.group(2)))
            else:
                raise UsageError(
                    f"--checkpoints: expected every=N, last or a training step, got {piece!r}"
                )
        return cls(tuple(every), tuple(steps), last)

    def require_fit(self, runs: Sequence[TrainingRun]) -> None:
        """Raise UsageError if a part of the selection selects no checkpoint of any run.

        With `last`, runs may be too short for `every`: a pipeline that runs every night selects the
        first checkpoints of a training run, too.
        """
        if self == CheckpointSelection():
            return
        if not runs:
            raise UsageError("--checkpoints: none of the models is a directory of checkpoints")
        longest = max(map(len, runs))
        for number in self.every:
            if number > longest and not self.last:
                there = f"the longest training run has {longest} checkpoints"
                raise UsageError(f"--checkpoints: every={number} selects nothing: {there}")
        given = [checkpoint.step for run in runs for checkpoint in run]
        known = {step for step in given if step is not None}
        for step in self.steps:
            if step not in known:
                raise UsageError(
                    f"--checkpoints: no checkpoint has step {step}; {_near(step, known)}"
                )

    def select(
        self, run: Sequence[Checkpoint], check: Callable[[Checkpoint], str | None]
    ) -> list[tuple[Checkpoint, str | None]]:
        """Return the selected checkpoints of a run, in order, each with its problem or None.

        Broken checkpoints count for `every`, so that the selection stays the same when one breaks
        or the run goes on. `last` selects the last checkpoint without a problem, and the broken
        ones after it, because they must be reported. Checks only the checkpoints that it returns.
        """
        if self == CheckpointSelection():
            return [(checkpoint, check(checkpoint)) for checkpoint in run]
        problems = {
            place: check(checkpoint)
            for place, checkpoint in enumerate(run)
            if checkpoint.step in self.steps
            or any((place + 1) % number == 0 for number in self.every)
        }
        for place in reversed(range(len(run) if self.last else 0)):
            if place not in problems:
                problems[place] = check(run[place])
            if not problems[place]:
                break
        return [(run[place], problem) for place, problem in sorted(problems.items())]


def search_checkpoints(
    root: str, subfolder: str = "", step_names: StepNames = _USUAL_NAMES
) -> Holding:
    """Return what a directory holds, by one look into each directory, up to three levels down.

    A directory is a model if it, or its `subfolder`, has weights; it is not searched further. Two
    kinds of directories count as half-written models: those with only config.json and no model
    below, and those without it, with a training step in the name and a model beside them. Follows
    each symbolic link once; a directory that is reached twice keeps the name that is no link.
    """
    found = _Search(root, subfolder, step_names)
    models = sorted(found.models.values(), key=lambda model: natural_key(model.path))
    if models and models[0].path == root:
        model = models[0]._replace(step=step_names.step(root))
        return Holding(model, [], found.unreadable)
    runs: dict[str, TrainingRun] = {}
    for model in models:
        pattern = _run_of(model.path, root, step_names)
        runs.setdefault(pattern, []).append(model._replace(step=step_names.step(model.path)))
    for pattern, run in runs.items():
        if "*" in pattern and all(model.step is None for model in run):
            runs[pattern] = _with_numbers(run, root, pattern.split("/").index("*"))
    return Holding(None, list(runs.values()), found.unreadable, links=found.repeated)


def _with_numbers(run: TrainingRun, root: str, place: int) -> TrainingRun:
    """Return a run with the steps that are its directories' whole names: runs/a/1000, runs/a/2000.

    Checkpoints are written every so many steps; other numbers are versions, seeds or years.
    """
    names = [os.path.relpath(model.path, root).split("/")[place] for model in run]
    if len(run) < 2 or not all(map(is_step_number, names)):
        return run
    steps = [int(name) for name in names]
    *regular, _ = sorted(steps)
    if math.gcd(*regular) < _LEAST_INTERVAL or set(steps) <= set(_YEARS):
        return run
    return [model._replace(step=step) for model, step in zip(run, steps, strict=True)]


def examine_checkpoints(
    holding: Holding, selection: CheckpointSelection, arguments: Mapping[str, str]
) -> list[tuple[Checkpoint, str | None]]:
    """Return the selected checkpoints in natural order, each with its problem or None."""

    def check(checkpoint: Checkpoint) -> str | None:
        return checkpoint.error or find_directory_problem(
            checkpoint.path, arguments, checkpoint.names
        )

    if holding.model:
        return [(holding.model, check(holding.model))]
    chosen = [pair for run in holding.runs for pair in selection.select(run, check)]
    return sorted(chosen, key=lambda pair: natural_key(pair[0].path))


class _Search:
    """One search below a directory.

    Attributes:
        models: The checkpoints, by their real paths.
        unreadable: Directories that could not be read, as `path: why`.
        repeated: Links that lead to models found already.
    """

    def __init__(self, root: str, subfolder: str, step_names: StepNames) -> None:
        self.models: dict[str, Checkpoint] = {}
        self.unreadable: list[str] = []
        self.repeated = 0
        self._root, self._subfolder, self._step_names = root, subfolder, step_names
        # Directories without weights.
        self._others: dict[str, Checkpoint] = {}
        # By directory: the levels that the search may still go down from there.
        self._levels: dict[str, int] = {}
        self._links: list[tuple[str, int]] = []
        self._look_into(root, os.path.realpath(root), _DEPTH)
        while self._links:
            links, self._links = self._links, []
            for path, levels in sorted(links, key=lambda link: natural_key(link[0])):
                real = os.path.realpath(path)
                self.repeated += real in self.models
                self._look_into(path, real, levels)
        self._add_incomplete()

    def _look_into(self, path: str, real: str, levels: int) -> None:
        if real in self.models or levels <= self._levels.get(real, -1):
            return
        self._levels[real] = levels
        try:
            with os.scandir(path) as scanned:
                entries = list(scanned)
            names = self._names(path, entries)
        except OSError as error:
            if path == self._root or self._is_named_by_step(path):
                self.models[real] = Checkpoint(path, error=str(error.strerror))
            else:
                self.unreadable.append(f"{path}: {error.strerror}")
            return
        if any(weights.weight_files(names)) or any(name.endswith(".gguf") for name in names):
            self.models[real] = Checkpoint(path, names)
            return
        self._others.setdefault(real, Checkpoint(path, names))
        for entry in entries if levels else ():
            if not entry.name.startswith("."):
                self._enter(entry, os.path.join(real, entry.name), levels - 1)

    def _is_named_by_step(self, path: str) -> bool:
        return self._step_names.step(os.path.basename(path)) is not None

    def _names(self, path: str, entries: Iterable[os.DirEntry[str]]) -> frozenset[str]:
        if not self._subfolder:
            return frozenset(entry.name for entry in entries)
        inner = os.path.join(path, self._subfolder)
        return frozenset(os.listdir(inner) if os.path.isdir(inner) else ())

    def _enter(self, entry: os.DirEntry[str], real: str, levels: int) -> None:
        if entry.is_dir(follow_symlinks=False):
            self._look_into(entry.path, real, levels)
        elif entry.is_symlink():
            try:
                # Links wait until all real directories have been searched.
                if stat.S_ISDIR(entry.stat().st_mode):
                    self._links.append((entry.path, levels))
            except OSError as error:
                self._others[real] = Checkpoint(entry.path, error=str(error.strerror))

    def _add_incomplete(self) -> None:
        """Add the half-written models, which have no weights."""
        above: set[str] = set()
        for model in self.models.values():
            _add_ancestors(model.path, above)
        # From the inside outwards, because a directory above a model is no model.
        others = sorted(self._others.items(), key=lambda other: -other[1].path.count("/"))
        for real, other in others:
            described = not other.names.isdisjoint(("config.json", "adapter_config.json"))
            if described and other.path not in above:
                self.models[real] = other
                _add_ancestors(other.path, above)
        beside = {os.path.dirname(model.path) for model in self.models.values()}
        for real, other in others:
            if (
                other.path not in above
                and os.path.dirname(other.path) in beside
                and self._is_named_by_step(other.path)
            ):
                self.models[real] = other


def _add_ancestors(path: str, above: set[str]) -> None:
    path = os.path.dirname(path)
    while path not in above:
        above.add(path)
        path = os.path.dirname(path)


def _near(step: int, known: Collection[int]) -> str:
    near = sorted(sorted(known), key=lambda other: abs(other - step))[:_STEPS_SHOWN]
    return f"the nearest are {', '.join(map(str, sorted(near)))}" if near else "no name has a step"


def _run_of(path: str, root: str, step_names: StepNames) -> str:
    """Return the pattern that the paths of one training run share: RUN/iter_*, RUN/iter_*/hf."""
    parts = os.path.relpath(path, root).split("/")
    places = range(len(parts))
    steps = [place for place in places if step_names.step(parts[place]) is not None]
    numbers = [place for place in places if is_step_number(parts[place])]
    parts[(steps or numbers or [-1])[-1]] = "*"
    return "/".join(parts)
