"""Rows of a manifest, which say what is evaluated, and the identity of a row."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oellm.errors import InputError
from oellm.manifest.cells import Cell, identity_columns, read_cell
from oellm.manifest.first_identity import FIRST_MEMBERS, first_member
from oellm.manifest.model_spec import ModelSpec
from oellm.manifest.typed_row import TypedRow

# Part of every identity: if the rules below change, old results must not count as the same
# evaluation.
IDENTITY_VERSION = 1

# The third required column, n_shot, may be empty: it then means the task's own default.
_NEVER_EMPTY = ("model_path", "task_path")


# Not frozen: creating a frozen instance takes twice as long, and there may be a million rows.
@dataclass(slots=True)
class Row:
    """One row of a manifest. Nothing changes a row; its methods return another one.

    Attributes:
        cells: The texts of its cells, by column.
        source: The file that it was read from, for errors.
        line: The line where it begins there, from 1.
    """

    cells: Mapping[str, str]
    source: str = ""
    line: int | None = None
    # Both are worked out when they are first asked for.
    _meanings: list[Cell] | None = field(default=None, init=False, repr=False, compare=False)
    _typed: TypedRow | None = field(default=None, init=False, repr=False, compare=False)

    def __getitem__(self, column: str) -> str:
        """Return the text of a cell, empty if the column is absent."""
        return self.cells.get(column, "")

    @property
    def typed(self) -> TypedRow:
        """The values of the row's cells; raises InputError, with line and column, for a bad one."""
        if self._typed is None:
            self._typed = TypedRow.of(self.cells, self.meanings())
        return self._typed

    def value(self, name: str) -> Any:
        """Return the value of one cell, its column's default, or None.

        Raises InputError, with line and column, if the text is no value of the column.
        """
        try:
            value = read_cell(name, self[name]).value
        except ValueError as error:
            raise self.error(name, str(error)) from None
        # Rows share cached values; a caller that changes its copy must not change theirs.
        return copy.deepcopy(value) if isinstance(value, (dict, list)) else value

    def meanings(self) -> list[Cell]:
        """Return what each cell means; raises InputError for the first that is no value."""
        if self._meanings is None:
            try:
                self._meanings = [read_cell(name, text) for name, text in self.cells.items()]
            except ValueError:
                # Only now it matters which cell is bad.
                for name in self.cells:
                    self.value(name)
                raise
        return self._meanings

    def error(self, column: str, text: str) -> InputError:
        """Return an error about one cell of this row."""
        return InputError(text, self.source, line=self.line, column=column)

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
        return self.typed.model

    @property
    def model_arguments(self) -> dict[str, Any]:
        """All arguments of the model: those of its own cell override those of model_args."""
        return self.typed.model_arguments


def eval_id(row: Row) -> str:
    """Return the identity of a row: 16 hex digits over the columns that change a score.

    The order of columns, columns that do not change a score, and the spelling of a value have no
    influence. Raises InputError if a cell has no valid value.
    """
    try:
        cells = row.meanings()
    except InputError:
        # An error in another column changes no identity.
        cells = row.without(*row.cells.keys() - identity_columns()).meanings()
    return _digest([cell.member for cell in cells if cell.member])


def _digest(members: list[str]) -> str:
    members.append(f'"identity_version":{IDENTITY_VERSION}')
    # Column names contain no character that sorts before the quote that ends them, so sorting the
    # members sorts them by key, as canonical JSON does.
    canonical = "{" + ",".join(sorted(members)) + "}"
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _first_eval_id(row: Row) -> str:
    """Return the eval_id that a row had when each spelling of an argument had its own.

    Rows of runs from that time carry it, and their results are found by it.
    """
    members = [
        first_member(name, text) if name in FIRST_MEMBERS else read_cell(name, text).member
        for name, text in row.cells.items()
        if name in identity_columns()
    ]
    return _digest(list(filter(None, members)))


def identify_row(row: Row) -> Row:
    """Return the row with its eval_id; raises InputError if it carries another row's."""
    computed, given = eval_id(row), row.cells.get("eval_id")
    if given and given not in (computed, _first_eval_id(row)):
        hint = "the row was changed after it got its eval_id; empty the cell and render it"
        raise row.error("eval_id", f"expected {computed}, got {given!r}: {hint}")
    if given:
        return row
    identified = row.with_cells(eval_id=computed)
    # The eval_id is no part of the typed view, so the new row has the same one.
    identified._typed = row._typed
    return identified


def check_row(row: Row) -> Row:
    """Check every cell of a row and return it; raises InputError for the first bad one.

    A row that carries its eval_id is an old one; it may have texts that new ones may not.
    """
    for name in _NEVER_EMPTY:
        if not row.cells.get(name, "").strip():
            raise row.error(name, "expected a value, got an empty cell")
    cells = row.meanings()
    if not row["eval_id"]:
        for name, cell in zip(row.cells, cells, strict=True):
            if cell.objection:
                raise row.error(name, cell.objection)
    return row
