"""Rows of manifests with other settings."""

from __future__ import annotations

from collections.abc import Mapping

from oellm.core.display import format_count
from oellm.core.log import Log
from oellm.manifest.csv_file import ManifestReader
from oellm.manifest.rows import Row, check_row, eval_id

# What oe-fetch and oe-render have found out about a row with its old settings.
_FOUND = ("eval_id", "task_digest", "task_version", "n_docs", "n_requests", "request_types")


def fill_row(row: Row, settings: Mapping[str, str]) -> Row:
    """Return a checked row with these cells; what was found out about others is empty.

    Raises InputError for a cell that its column cannot hold.
    """
    if all(row[name] == text for name, text in settings.items()):
        return row
    found = {name: "" for name in _FOUND if name in row.cells}
    return check_row(row.with_cells(**settings, **found))


class JoinedRows:
    """The rows of several manifests with the same settings.

    Attributes:
        header: The columns of all manifests.
        rows: Their rows, in order; a manifest adds those that the ones before it lack.
    """

    def __init__(self, settings: Mapping[str, str], report: Log) -> None:
        self.header: list[str] = []
        self.rows: list[Row] = []
        self._settings = settings
        self._report = report

    def add(self, reader: ManifestReader) -> None:
        """Add a manifest; raises InputError as its reader does, and for a cell that does not fit.

        `report` gets a message if rows are left out.
        """
        self.header += [column for column in reader.header if column not in self.header]
        filled = [fill_row(row, self._settings) for row in reader]
        # A single manifest may be large, and needs no comparison.
        known = set(map(eval_id, self.rows))
        new = [row for row in filled if not known or eval_id(row) not in known]
        self.rows += new
        if lost := len(filled) - len(new):
            rows = format_count(lost, "row")
            self._report(f"{reader.source}: {rows} left out, which came before")
