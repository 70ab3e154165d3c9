"""The models of --models: lists are read, and directories replaced by their checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TextIO

from oellm.errors import InputError, UsageError, raise_errors
from oellm.manifest.checkpoint_names import StepNames, training_step
from oellm.manifest.locations import find_hub_snapshot, locate_model
from oellm.manifest.model_spec import HUB_ID, ModelSpec, parse_listed, split_models

if TYPE_CHECKING:
    from oellm.models.checkpoints import Holding


class ListedModel(NamedTuple):
    """A model that the user names, and the list and line that name it, if it comes from a list."""

    spec: ModelSpec
    source: str = ""
    line: int | None = None

    def error(self, text: str) -> InputError:
        """Return an error about this model."""
        return InputError(text, self.source, self.line)


class ExpandedModel(NamedTuple):
    """A model to evaluate.

    Attributes:
        spec: The model, with the one name that it has.
        revision: The commit of a model that was named by a directory of the hub's cache.
        step: Its training step, if its name does not tell it by itself.
    """

    spec: ModelSpec
    revision: str = ""
    step: int | None = None

    @property
    def cells(self) -> dict[str, str]:
        """The cells of the manifest that are about the model."""
        cells = {"model_path": str(self.spec)}
        if self.revision:
            cells["model_revision"] = self.revision
        if self.step is not None:
            cells["step"] = str(self.step)
        return cells


class Expansion(NamedTuple):
    """The models to evaluate, and those that are left out.

    Attributes:
        models: The models to evaluate.
        broken: Paths that cannot be loaded, as `path: why`.
        remarks: What else the user should know.
    """

    models: list[ExpandedModel]
    broken: list[str]
    remarks: list[str]


def list_models(
    value: str,
    open_list: Callable[[str], AbstractContextManager[TextIO]],
    name_list: Callable[[str], str],
) -> Iterator[ListedModel]:
    """Yield the models that a value of --models names, those of lists in their place.

    `open_list` opens a list by its path, or `-`; `name_list` returns what messages call it. Raises
    UsageError for a bad value.
    """
    try:
        specs = split_models(value)
    except ValueError as error:
        raise UsageError(f"--models: {error}") from None
    for spec in specs:
        if spec.path != "-" and not spec.path.startswith("@"):
            yield ListedModel(spec)
            continue
        path = spec.path.removeprefix("@")
        if not path:
            raise UsageError("--models: expected the name of a file after @")
        with open_list(path) as stream:
            yield from read_model_list(stream, name_list(path), spec.arguments)


def read_model_list(
    stream: TextIO, source: str, added: tuple[tuple[str, str], ...] = ()
) -> Iterator[ListedModel]:
    """Yield the models of a list with one cell a line; each gets the `added` arguments too.

    Skips blank lines and lines that start with #. Raises InputError with the line for a cell that
    is no model, and for a list without models.
    """
    number = 0
    empty = True
    try:
        for line in stream:
            number += 1
            cell = line.strip()
            if not cell or cell.startswith("#"):
                continue
            empty = False
            try:
                spec = parse_listed(cell, added)
            except ValueError as error:
                raise InputError(str(error), source, number) from None
            yield ListedModel(spec, source, number)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        # Text is decoded in blocks; the bad byte may be some lines further on in its block.
        number += 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source, number) from None
    if empty:
        raise InputError("expected a model on each line, got none", source)


def expand_models(
    listed: Sequence[ListedModel],
    which: Sequence[str] = (),
    further: Mapping[str, str] = MappingProxyType({}),
    step_pattern: str = "",
) -> Expansion:
    """Return the models, each directory replaced by the checkpoints below it.

    `which` selects checkpoints (see CheckpointSelection). `further` are arguments with which each
    model is loaded besides its own, which prevail. `step_pattern` finds the training step in a
    name (see StepNames). Local paths get their one spelling. Raises InputError for a path that
    holds no model, UsageError for a selection or pattern that fits nothing.
    """
    try:
        names = StepNames(step_pattern)
    except ValueError as error:
        raise UsageError(f"--step_pattern: {error}") from None
    expansion = Expansion([], [], [])
    if which or any(model.spec.is_local for model in listed):
        _expand_directories(expansion, listed, which, further=further, names=names)
    else:
        raise_errors(list(_not_hub_ids(listed)))
        expansion.models.extend(ExpandedModel(locate_model(model.spec)) for model in listed)
    if step_pattern:
        _read_steps(expansion.models, names)
    return expansion


def _not_hub_ids(listed: Sequence[ListedModel]) -> Iterator[InputError]:
    for model in listed:
        path = model.spec.path
        if model.spec.is_local or HUB_ID.fullmatch(path):
            continue
        text = f"{path!r} is neither a directory nor a hub id (org/name)"
        if set(path) & set("*?["):
            text += "; the shell expands a pattern if it is not quoted: ls -d … | oe-manifest"
            text += " --models -"
        elif set(path) & set('{}":'):
            text += "; --model_args takes lists and objects, as JSON"
        yield model.error(text)


def _expand_directories(
    expansion: Expansion,
    listed: Sequence[ListedModel],
    which: Sequence[str],
    *,
    further: Mapping[str, str],
    names: StepNames,
) -> None:
    from oellm.models import checkpoints

    selection = checkpoints.CheckpointSelection.parse(which)
    errors = list(_not_hub_ids(listed))
    searches: list[tuple[ModelSpec, Mapping[str, str], Holding | None]] = []
    for model in listed:
        given = {**further, **dict(model.spec.arguments)}
        spec = locate_model(model.spec)
        holding = None
        try:
            if spec.is_local and not find_hub_snapshot(spec):
                holding = _holding(
                    model, spec.path, subfolder=given.get("subfolder", ""), names=names
                )
        except InputError as error:
            errors.append(error)
        searches.append((spec, given, holding))
    raise_errors(errors)
    holdings = [holding for *_, holding in searches if holding]
    selection.require_fit([run for holding in holdings for run in holding.runs])
    for spec, arguments, holding in searches:
        if holding is None:
            _add_hub_model(expansion, spec)
            continue
        expansion.broken.extend(holding.unreadable)
        for checkpoint, problem in checkpoints.examine_checkpoints(holding, selection, arguments):
            if problem:
                expansion.broken.append(f"{checkpoint.path}: {problem}")
            else:
                _add_checkpoint(expansion, spec.at(checkpoint.path), checkpoint.step)
    if links := sum(holding.links for holding in holdings):
        expansion.remarks.append(f"{links} links lead to models that are there already")


def _add_checkpoint(expansion: Expansion, spec: ModelSpec, step: int | None) -> None:
    """Add a local model by the name that it has without links."""
    if re.search(r"[\ud800-\udfff]", spec.path):
        expansion.broken.append(f"{spec.path!r}: the path is not UTF-8, so no manifest can name it")
        return
    located = locate_model(spec)
    snapshot = find_hub_snapshot(located)
    if snapshot and snapshot.commit:
        expansion.models.append(ExpandedModel(snapshot.name_on_hub(located), snapshot.commit))
        return
    told = training_step(located.path)
    expansion.models.append(ExpandedModel(located, step=step if told is None else None))


def _add_hub_model(expansion: Expansion, spec: ModelSpec) -> None:
    """Add a model of the hub, or of a hub's cache, which is told by its name on the hub."""
    snapshot = find_hub_snapshot(spec) if spec.is_local else None
    if snapshot is None:
        expansion.models.append(ExpandedModel(spec))
    elif not snapshot.commit:
        revision = dict(spec.arguments).get("revision", "main")
        expansion.broken.append(f"{spec.path}: the hub's cache has no snapshot of {revision}")
    else:
        expansion.models.append(ExpandedModel(snapshot.name_on_hub(spec), snapshot.commit))
        expansion.remarks.append(
            f"{spec.path}: this is {snapshot.name} of the hub at {snapshot.commit[:12]}; "
            "jobs take it from the setting hf_home"
        )


def _read_steps(models: list[ExpandedModel], names: StepNames) -> None:
    """Give models the steps that a pattern finds in their names."""
    found = [
        names.step(model.spec.path, dict(model.spec.arguments).get("revision", ""))
        for model in models
    ]
    if models and all(step is None for step in found):
        raise UsageError(f"--step_pattern: it finds no number in {models[0].spec.path!r}")
    models[:] = [model._replace(step=step) for model, step in zip(models, found, strict=True)]


def _holding(model: ListedModel, root: str, *, subfolder: str, names: StepNames) -> Holding:
    """Return what a local model's directory holds."""
    from oellm.models import checkpoints

    if os.path.isfile(root):
        raise model.error(f"{root}: this is a file; name a model by its directory")
    if not os.path.isdir(root):
        hint = "; the shell expands a pattern if it is not quoted" if "*" in root else ""
        raise model.error(f"{root}: no such directory{hint}")
    holding = checkpoints.search_checkpoints(root, subfolder, names)
    if not any(holding[:3]):
        raise model.error(
            f"{root}: no model here: no config.json and no weights in it or in directories below it"
        )
    return holding
