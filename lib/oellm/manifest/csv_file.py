"""Manifests as CSV: read with the place of each error, and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from oellm.core import schema
from oellm.core.csv_records import CsvReader, csv_writer
from oellm.core.display import guard_terminal
from oellm.core.log import Log
from oellm.errors import InputError, OellmError, raise_errors
from oellm.manifest import other_formats
from oellm.manifest.rows import Row, check_row

# After so many errors nobody wants to know of more.
_MOST_ERRORS = 1000


class ManifestReader:
    """Yields the checked rows of a CSV manifest, one by one.

    Raises InputError, with line and column, for a missing header or column, a line that is not as
    long as the header, and a cell that its column cannot hold. After the first bad row it yields
    no other, but looks for what else is wrong. `report` gets a message for each unknown column that
    may be a misspelled one.

    Attributes:
        header: The names of the columns.
        source: The name of the manifest.
    """

    def __init__(self, stream: TextIO, source: str, report: Log | None = None) -> None:
        self._records = CsvReader(
            stream,
            source,
            schema.required("manifest"),
            check_start=lambda line: other_formats.require_manifest(line, source),
        )
        self.source = source
        self.header = self._records.header
        if report is not None:
            for text in other_formats.find_misspelled_columns(self.header):
                report(f"{source}: {text}")

    def __iter__(self) -> Iterator[Row]:
        errors: list[OellmError] = []
        try:
            for line, cells in self._records:
                row = Row(dict(zip(self.header, cells, strict=False)), self.source, line)
                try:
                    check_row(row)
                except InputError as error:
                    errors.append(error)
                if not errors:
                    yield row
                if len(errors) == _MOST_ERRORS:
                    break
        except InputError as error:
            errors.append(error)
        raise_errors(errors)


def read_rows(stream: TextIO, source: str, report: Log | None = None) -> Iterator[Row]:
    """Yield the checked rows of a CSV manifest; raises InputError as ManifestReader does."""
    return iter(ManifestReader(stream, source, report))


class ManifestWriter:
    """Writes rows as CSV; the first row decides the columns.

    On a terminal, they have no control characters.
    """

    def __init__(self, stream: TextIO) -> None:
        self._csv = csv_writer(guard_terminal(stream))
        self._columns: dict[str, None] = {}

    def header(self, columns: Iterable[str]) -> None:
        """Write the header, for output that may have no row."""
        self._columns = dict.fromkeys(columns)
        self._csv.writerow(self._columns)

    def write(self, row: Row) -> None:
        """Write one row; raises ValueError if it has columns that the header lacks."""
        if not self._columns:
            self.header(row.cells)
        if not row.cells.keys() <= self._columns.keys():
            lost = sorted(row.cells.keys() - self._columns.keys())
            raise ValueError(f"columns {lost} are not in the header")
        self._csv.writerow([row[name] for name in self._columns])

    def write_texts(self, rows: Iterable[Sequence[str]]) -> None:
        """Write rows, each as the texts of its cells in the order of the header."""
        self._csv.writerows(rows)


def write_models(stream: TextIO, models: Sequence[Mapping[str, str]], rows: Sequence[Row]) -> None:
    """Write a manifest with the same rows for each of several models, by model.

    The cells of a model replace those of the rows; models may have different ones.
    """
    of_models = list(dict.fromkeys(column for model in models for column in model))
    columns = list(dict.fromkeys([*(column for row in rows for column in row.cells), *of_models]))
    writer = ManifestWriter(stream)
    writer.header(columns)
    # Between models only these cells change.
    lines = [[row[column] for column in columns] for row in rows]
    places = [(columns.index(column), column) for column in of_models]
    for model in models:
        for line in lines:
            for place, column in places:
                line[place] = model.get(column, "")
        writer.write_texts(lines)
