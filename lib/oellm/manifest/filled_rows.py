"""Rows of a manifest with other settings."""

from __future__ import annotations

from collections.abc import Mapping

from oellm.manifest.rows import Row, check_row

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
