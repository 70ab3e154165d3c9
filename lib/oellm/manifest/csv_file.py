"""Manifests as CSV: read with the place of each error, and written."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from oellm.core import schema
from oellm.errors import InputError
from oellm.manifest.rows import Row, checked

# Characters of a cell, for reading: a system instruction may be long, a text whose closing quote
# is missing must not fill the memory.
_LONGEST_CELL = 2**20


def read(stream: TextIO, source: str) -> Iterator[Row]:
    """Yield the checked rows of a CSV manifest, one by one.

    Raises InputError with line and column for a missing header or column, a line of another
    length than the header, and any cell that is no value of its column.
    """
    csv.field_size_limit(_LONGEST_CELL)
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
                yield checked(Row(dict(zip(header, cells, strict=False)), source, line))
            # A row begins where the one before it ended; a quoted cell may have line ends.
            line = lines.line_num + 1
    except csv.Error as error:
        problem = str(error)
        if "field limit" in problem:
            problem = f"a cell of over {_LONGEST_CELL} characters; is a quote missing?"
        raise InputError(f"expected CSV: {problem}", source, line) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        # Text is decoded in blocks, so the line may be further on than the one that was asked for.
        line = lines.line_num + 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source, line) from None


def _check_header(header: list[str], source: str) -> None:
    required = [name for name, spec in schema.table("manifest").items() if spec.get("required")]
    for name in required:
        if name not in header:
            shown = ",".join(header)[:120]
            text = f"required column is missing; the header is {shown!r}"
            raise InputError(text, source, 1, name)
    for name in header:
        if header.count(name) > 1:
            raise InputError("the column stands twice in the header", source, 1, name)


class _LineFeeds:
    """A stream that ends lines with a line feed only, whatever csv ends them with."""

    def __init__(self, stream: TextIO) -> None:
        self._write = stream.write

    def write(self, line: str) -> int:
        """Write one line that ends with CR LF."""
        return self._write(line[:-2] + "\n")


class Writer:
    """Writes rows as CSV; the first row decides the columns."""

    def __init__(self, stream: TextIO) -> None:
        # Before Python 3.13, csv quotes a carriage return in a cell only if lines end with one.
        self._csv = csv.writer(_LineFeeds(stream), lineterminator="\r\n")
        self._columns: dict[str, None] = {}

    def header(self, columns: Iterable[str]) -> None:
        """Write the header, for output that may have no row."""
        self._columns = dict.fromkeys(columns)
        self._csv.writerow(self._columns)

    def write(self, row: Row) -> None:
        """Write one row; cells of columns that the header lacks would be lost, so they raise."""
        if not self._columns:
            self.header(row.cells)
        if not row.cells.keys() <= self._columns.keys():
            lost = sorted(row.cells.keys() - self._columns.keys())
            raise ValueError(f"columns {lost} are not in the header")
        self._csv.writerow([row[name] for name in self._columns])

    def write_texts(self, rows: Iterable[Sequence[str]]) -> None:
        """Write rows that are the texts of their cells, in the order of the header."""
        self._csv.writerows(rows)
