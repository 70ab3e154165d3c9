"""CSV with a header: read with the place of each error, and written so that any reader takes it."""

from __future__ import annotations

import csv
import functools
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oellm.errors import InputError, find_nearest

if TYPE_CHECKING:
    from _csv import Writer as CsvWriter

    from _typeshed import SupportsWrite

# Characters of a cell: a system instruction may be long, but a cell without its closing quote
# must not fill the memory.
_LONGEST_CELL = 2**20
# Characters of a line that are read at once; a longer line has too few cells.
_LONGEST_LINE = 2**24


# What spreadsheets write between columns if commas are decimal points.
_OTHER_SEPARATORS = (";", "\t", "|")


class CsvReader:
    """Yields the line number and the cells of each record of a CSV text.

    Raises InputError with line and column for text without a header, a required column that is
    missing, a column that stands twice in the header, a record that is not as long as the header,
    and text that is not CSV or not UTF-8. `check_start` gets the first line before it is parsed,
    and may raise an error that says what it is.

    Attributes:
        header: The names of the columns.
    """

    def __init__(
        self,
        lines: Iterable[str],
        source: str,
        required: Iterable[str] = (),
        *,
        check_start: Callable[[str], None] | None = None,
    ) -> None:
        csv.field_size_limit(_LONGEST_CELL)
        if isinstance(lines, io.TextIOBase):
            lines = iter(functools.partial(lines.readline, _LONGEST_LINE), "")
        if check_start is not None:
            lines = _checked(lines, check_start)
        self._reader = csv.reader(lines, strict=True)
        self._source = source
        self._records = self._read()
        _, self.header = next(self._records)
        self.require(required)
        for name, count in Counter(self.header).items():
            if count > 1:
                raise InputError(
                    "the column occurs twice in the header", source, line=1, column=name
                )

    def require(self, columns: Iterable[str]) -> None:
        """Raise InputError if the header lacks one of some columns."""
        for name in columns:
            if name not in self.header:
                shown = ",".join(self.header)[:120]
                text = f"required column is missing; the header is {shown!r}"
                text += _header_hint(name, self.header)
                raise InputError(text, self._source, line=1, column=name)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        return self._records

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the header and the records, each with the line on which it begins."""
        line = 1
        try:
            header = next(self._reader, None)
            if header is None:
                message = "expected a CSV header, got nothing: did the command before fail?"
                raise InputError(message, self._source)
            yield line, header
            # A record begins where the one before it ended; a quoted cell may have line ends.
            line = self._reader.line_num + 1
            for cells in self._reader:
                if len(cells) == len(header):
                    yield line, cells
                elif cells:
                    message = f"expected {len(header)} cells as in the header, got {len(cells)}"
                    raise InputError(message, self._source, line)
                line = self._reader.line_num + 1
        except csv.Error as error:
            problem = str(error)
            if "field limit" in problem:
                problem = f"a cell has more than {_LONGEST_CELL} characters; is a quote missing?"
            raise InputError(f"expected CSV: {problem}", self._source, line) from None
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            # Text is decoded in blocks; the bad byte may be some lines further on in its block.
            line = self._reader.line_num + 1 + error.object.count(b"\n", 0, error.start)
            message = f"expected UTF-8 text, got byte 0x{byte:02x}"
            raise InputError(message, self._source, line) from None


def _checked(lines: Iterable[str], check_start: Callable[[str], None]) -> Iterator[str]:
    """Yield lines; the first one is checked before."""
    rest = iter(lines)
    for line in rest:
        check_start(line)
        yield line
        break
    yield from rest


def _header_hint(name: str, header: Sequence[str]) -> str:
    """Return what may be wrong with a header that lacks a column."""
    separators = [each for each in _OTHER_SEPARATORS if len(header) == 1 and each in header[0]]
    if separators:
        return f"; its columns seem to be separated by {separators[0]!r}, not by commas"
    by_plain_name = {one.strip().lower(): one for one in header}
    meant = by_plain_name.get(name) or find_nearest(name, header)
    return f"; rename {meant!r}" if meant else ""


class _LineFeeds:
    """A stream that gets each line of a csv.writer with a line feed in place of CR LF."""

    def __init__(self, stream: SupportsWrite[str]) -> None:
        self._write = stream.write

    def write(self, line: str) -> object:
        """Write one line that ends with CR LF."""
        return self._write(line[:-2] + "\n")


def csv_writer(stream: SupportsWrite[str]) -> CsvWriter:
    r"""Return a csv.writer that ends lines with a line feed and quotes cells that hold `\r`.

    Before Python 3.13, csv quotes a carriage return only if lines end with one; no reader takes
    a line in which it is not quoted.
    """
    if sys.version_info >= (3, 13):
        return csv.writer(stream, lineterminator="\n")
    return csv.writer(_LineFeeds(stream), lineterminator="\r\n")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows of cells as lines of CSV."""
    text = io.StringIO(newline="")
    csv_writer(text).writerows(rows)
    return text.getvalue()
