"""The models of --models: lists are read, and directories replaced by their checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TextIO

from oellm.errors import InputError
from oellm.manifest.model_spec import ModelSpec, parse_listed

if TYPE_CHECKING:
    from oellm.models.checkpoints import Holding

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class ListedModel(NamedTuple):
    """A model that the user names, and the list and line that name it, if it comes from a list."""

    spec: ModelSpec
    source: str = ""
    line: int | None = None

    def error(self, text: str) -> InputError:
        """Return an error about this model."""
        return InputError(text, self.source, self.line)


class Expansion(NamedTuple):
    """The models to evaluate, and those that are left out.

    Attributes:
        models: The models to evaluate.
        broken: Paths that cannot be loaded, as `path: why`.
    """

    models: list[ModelSpec]
    broken: list[str]


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
) -> Expansion:
    """Return the models, each directory replaced by the checkpoints below it.

    `which` selects checkpoints (see CheckpointSelection). `further` are arguments with which each
    model is loaded besides its own, which prevail. Local paths become absolute. Raises InputError
    for a path that holds no model, UsageError for a selection that fits nothing.
    """
    for model in listed:
        if not model.spec.is_local and not _HUB_ID.fullmatch(model.spec.path):
            raise model.error(f"{model.spec.path!r} is neither a directory nor a hub id (org/name)")
    if not which and not any(model.spec.is_local for model in listed):
        return Expansion([model.spec for model in listed], [])
    from oellm.models import checkpoints

    selection = checkpoints.CheckpointSelection.parse(which)
    arguments = [{**further, **dict(model.spec.arguments)} for model in listed]
    holdings = [
        _holding(model, given.get("subfolder", "")) if model.spec.is_local else None
        for model, given in zip(listed, arguments, strict=True)
    ]
    selection.require_fit([run for holding in holdings if holding for run in holding.runs])
    expansion = Expansion([], [])
    for model, holding, given in zip(listed, holdings, arguments, strict=True):
        if holding is None:
            expansion.models.append(model.spec)
            continue
        expansion.broken.extend(holding.unreadable)
        for path, problem in checkpoints.examine_checkpoints(holding, selection, given):
            if problem:
                expansion.broken.append(f"{path}: {problem}")
            elif "," in path or path != path.strip():
                raise model.error(
                    f"{path!r}: a model's path cannot have a comma, or blanks at its ends"
                )
            else:
                expansion.models.append(model.spec.at(path))
    return expansion


def _holding(model: ListedModel, subfolder: str) -> Holding:
    """Return what a local model's directory holds."""
    from oellm.models import checkpoints

    root = os.path.abspath(os.path.expanduser(model.spec.path))
    if os.path.isfile(root):
        raise model.error(f"{root}: this is a file; name a model by its directory")
    if not os.path.isdir(root):
        raise model.error(f"{root}: no such directory")
    holding = checkpoints.search_checkpoints(root, subfolder)
    if not any(holding):
        raise model.error(
            f"{root}: no model here: no config.json and no weights in it or in directories below it"
        )
    return holding
