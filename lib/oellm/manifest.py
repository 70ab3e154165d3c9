"""The manifest: rows of CSV that say what is evaluated, and the identity of a row."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from oellm import schema
from oellm.errors import InputError
from oellm.models import ModelSpec

# Part of every identity: a change of the rules below must not pass for the same evaluation.
IDENTITY_VERSION = 1

# Of the required columns n_shot may be empty: the task's own default.
_NEVER_EMPTY = ("model_path", "task_path")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One row of a manifest: its cells as text, by column, and where it was read."""

    cells: Mapping[str, str]
    source: str = ""
    line: int | None = None

    def __getitem__(self, column: str) -> str:
        """Return the text of a cell, empty where the column is absent."""
        return self.cells.get(column, "")

    def value(self, column: str) -> Any:
        """Return the value of a cell (see schema.parse), its default, or None.

        Raises InputError that names line and column.
        """
        text = self[column]
        if not text:
            return schema.table("manifest").get(column, {}).get("default")
        try:
            return schema.parse(column, text)
        except ValueError as error:
            raise self.error(column, str(error)) from None

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


def eval_id(row: Row) -> str:
    """Return the identity of a row: 16 hex digits over the columns that change a score.

    Neither the order of columns, nor columns that do not change a score, nor the spelling of a
    value has an influence. Raises InputError where a cell has no valid value.
    """
    identity: dict[str, Any] = {"identity_version": IDENTITY_VERSION}
    known = schema.table("manifest")
    for column, text in row.cells.items():
        if text and column in known and known[column].get("identity"):
            value = row.value(column)
            if value != known[column].get("default"):
                identity[column] = value
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def identified(row: Row) -> Row:
    """Return the row with its eval_id; raises InputError where it carries another one."""
    computed = eval_id(row)
    given = row.value("eval_id")
    if given and given != computed:
        hint = "the row was changed after its eval_id was made; leave the cell empty"
        raise row.error("eval_id", f"expected {computed}, got {given!r}: {hint}")
    return row.with_cells(eval_id=computed)


def checked(row: Row) -> Row:
    """Return the row after checking every cell; raises InputError for the first bad one."""
    for column in _NEVER_EMPTY:
        if not row[column].strip():
            raise row.error(column, "expected a value, the cell is empty")
    known = schema.table("manifest")
    for column, text in row.cells.items():
        if text and column in known:
            row.value(column)
        # Neither a file's name nor the results can hold them (the latter: bytes that are no text).
        if _NO_TEXT.search(text):
            raise row.error(column, f"expected UTF-8 text without NUL, got {text!r}")
    return row


def located(row: Row) -> Row:
    """Return the row with its local paths made absolute, so that it means the same anywhere."""
    cells = {}
    model = row.model
    if model.is_local:
        cells["model_path"] = str(model.at(os.path.abspath(os.path.expanduser(model.path))))
    for column in ("include_path", "task_path"):
        text = row[column]
        if text and (column == "include_path" or text.endswith((".yaml", ".yml"))):
            cells[column] = os.path.abspath(os.path.expanduser(text))
    return row.with_cells(**cells)


def read(stream: TextIO, source: str) -> Iterator[Row]:
    """Yield the checked rows of a CSV manifest, one by one.

    Raises InputError with line and column for a missing header or column, a line of another
    length than the header, and any cell that is no value of its column.
    """
    lines = csv.reader(stream, strict=True)
    line = 1
    try:
        header = next(lines, None)
        if header is None:
            raise InputError(
                "expected a CSV header, got nothing: the command before failed?", source
            )
        _check_header(header, source)
        line = lines.line_num + 1
        for cells in lines:
            if cells and len(cells) != len(header):
                raise InputError(
                    f"expected {len(header)} cells as in the header, got {len(cells)}", source, line
                )
            if cells:
                yield checked(Row(dict(zip(header, cells, strict=True)), source, line))
            # A row begins where the one before it ended; a quoted cell may have line ends.
            line = lines.line_num + 1
    except csv.Error as error:
        raise InputError(f"expected CSV: {error}", source, line) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        # Text is decoded in blocks, so the line may be further on than the one that was asked for.
        line = lines.line_num + 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source, line) from None


def _check_header(header: list[str], source: str) -> None:
    required = [name for name, spec in schema.table("manifest").items() if spec.get("required")]
    for column in required:
        if column not in header:
            shown = ",".join(header)[:120]
            raise InputError(
                f"required column is missing; the header is {shown!r}", source, 1, column
            )
    for column in header:
        if header.count(column) > 1:
            raise InputError("the column stands twice in the header", source, 1, column)


class _LineFeeds:
    """A stream that ends lines with a line feed only, whatever csv ends them with."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        """Write one line that ends with CR LF."""
        return self._stream.write(line.removesuffix("\r\n") + "\n")


class Writer:
    """Writes rows as CSV; the first row decides the columns."""

    def __init__(self, stream: TextIO) -> None:
        # Before Python 3.13, csv quotes a carriage return in a cell only if lines end with one.
        self._csv = csv.writer(_LineFeeds(stream), lineterminator="\r\n")
        self._columns: list[str] = []

    def header(self, columns: Iterable[str]) -> None:
        """Write the header, for output that may have no row."""
        self._columns = list(columns)
        self._csv.writerow(self._columns)

    def write(self, row: Row) -> None:
        """Write one row; cells of columns that the header lacks would be lost, so they raise."""
        if not self._columns:
            self.header(row.cells)
        if lost := set(row.cells) - set(self._columns):
            raise ValueError(f"columns {sorted(lost)} are not in the header")
        self._csv.writerow([row[column] for column in self._columns])
