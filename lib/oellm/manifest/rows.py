"""The manifest: rows of CSV that say what is evaluated, and the identity of a row."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oellm.errors import InputError
from oellm.manifest.cells import COLUMNS, Cell, identity_columns
from oellm.manifest.model_spec import ModelSpec

# Part of every identity: a change of the rules below must not pass for the same evaluation.
IDENTITY_VERSION = 1

# Of the required columns n_shot may be empty: the task's own default.
_NEVER_EMPTY = ("model_path", "task_path")
# Paths of models whose place is kept in mind.
_PLACES = 8192


# Not frozen: that takes twice the time, a million times.
@dataclass(slots=True)
class Row:
    """One row of a manifest: its cells as text, by column, and where it was read.

    Nothing changes a row; the methods return another one.
    """

    cells: Mapping[str, str]
    source: str = ""
    line: int | None = None

    def __getitem__(self, column: str) -> str:
        """Return the text of a cell, empty where the column is absent."""
        return self.cells.get(column, "")

    def value(self, name: str) -> Any:
        """Return the value of a cell (see schema.parse), its default, or None.

        Raises InputError that names line and column.
        """
        try:
            value = COLUMNS[name][self[name]].value
        except ValueError as error:
            raise self.error(name, str(error)) from None
        # Other rows have the same value; whoever changes theirs must not change it.
        return copy.deepcopy(value) if isinstance(value, (dict, list)) else value

    def meanings(self) -> list[Cell]:
        """Return what each cell means; raises InputError for the first that is no value."""
        try:
            return [COLUMNS[name][text] for name, text in self.cells.items()]
        except ValueError:
            # Which one it was matters only now.
            for name in self.cells:
                self.value(name)
            raise

    def error(self, column: str, text: str) -> InputError:
        """Return an error about one cell of this row."""
        return InputError(text, self.source, self.line, column)

    def with_cells(self, **cells: str) -> Row:
        """Return the row with some cells set; new columns come last."""
        return Row({**self.cells, **cells}, self.source, self.line)

    def without(self, *columns: str) -> Row:
        """Return the row without some columns."""
        kept = {name: text for name, text in self.cells.items() if name not in columns}
        return Row(kept, self.source, self.line)

    @property
    def model(self) -> ModelSpec:
        """The model of the row."""
        path, arguments = self.value("model_path")
        return ModelSpec(path, tuple(arguments.items()))

    @property
    def model_arguments(self) -> dict[str, Any]:
        """All arguments of the model: those of its own cell come before those of model_args."""
        return {**(self.value("model_args") or {}), **dict(self.model.arguments)}


def eval_id(row: Row) -> str:
    """Return the identity of a row: 16 hex digits over the columns that change a score.

    Neither the order of columns, nor columns that do not change a score, nor the spelling of a
    value has an influence. Raises InputError where a cell has no valid value.
    """
    try:
        cells = row.meanings()
    except InputError:
        # What is wrong elsewhere changes no identity.
        cells = row.without(*row.cells.keys() - identity_columns()).meanings()
    members = [cell.member for cell in cells if cell.member]
    members.append(f'"identity_version":{IDENTITY_VERSION}')
    # The names of columns hold nothing that sorts before the quote which ends them, so that this
    # is the order of a JSON object with sorted keys.
    canonical = "{" + ",".join(sorted(members)) + "}"
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def identified(row: Row) -> Row:
    """Return the row with its eval_id; raises InputError where it carries another one."""
    computed, given = eval_id(row), row["eval_id"]
    if given and given != computed:
        hint = "the row was changed after its eval_id was made; leave the cell empty"
        raise row.error("eval_id", f"expected {computed}, got {given!r}: {hint}")
    return row if given else row.with_cells(eval_id=computed)


def checked(row: Row) -> Row:
    """Return the row after checking every cell; raises InputError for the first bad one."""
    for name in _NEVER_EMPTY:
        if not row[name].strip():
            raise row.error(name, "expected a value, the cell is empty")
    row.meanings()
    return row


class Locator:
    """Makes the local paths of rows absolute, so that they mean the same anywhere.

    The file system is asked once for each model, however many rows have it.
    """

    def __init__(self) -> None:
        self._place_of = functools.lru_cache(_PLACES)(_place)

    def located(self, row: Row) -> Row:
        """Return a checked row with its local paths made absolute."""
        moved = {}
        for name in ("model_path", "task_path", "include_path"):
            text = row.cells.get(name)
            if text and (place := self._place_of(name, text)) != text:
                moved[name] = place
        return row.with_cells(**moved) if moved else row


def located(row: Row) -> Row:
    """Return one checked row with its local paths made absolute; see Locator for many."""
    return Locator().located(row)


def _place(name: str, text: str) -> str:
    """Return the text of a cell with the local path in it made absolute."""
    if name == "model_path":
        model = ModelSpec.parse(text)
        return str(model.at(_absolute(model.path))) if model.is_local else text
    is_path = name == "include_path" or text.endswith((".yaml", ".yml"))
    return _absolute(text) if is_path else text


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
