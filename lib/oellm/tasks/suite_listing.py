"""What there is in suites, as records to print: one a suite, or one a row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from oellm.tasks import suites
from oellm.tasks.suite_files import Catalogue, Cells

Record = dict[str, Any]

# The manifest's columns that each row has, in the order of a listing.
ROW_COLUMNS = ("task_group", "task_path", "n_shot", "eval_suite", "language", "primary_metric")
SUITE_COLUMNS = ("suite", "tasks", "n_shot", "languages", "description")

# So many languages are named, more are counted.
_NAMED = 6
# Spaces between two columns of a table, and those that a name of a column has to itself.
_GAP = _PADDING = 2
# The least that is left for the description.
_NARROWEST = 24


def rows(selections: Iterable[str], catalogue: Catalogue) -> tuple[list[Record], list[str]]:
    """Return the rows of selections, or of every suite where there are none, and their columns.

    These are ROW_COLUMNS, and after them the settings that a row has.
    """
    plain = (name for name, suite in catalogue.suites.items() if suite.rows)
    found = [
        row
        for selection in list(selections) or plain
        for row in suites.select(selection, catalogue)
    ]
    columns = list(dict.fromkeys([*ROW_COLUMNS, *(column for row in found for column in row)]))
    return [{column: row.get(column, "") for column in columns} for row in found], columns


def overview(catalogue: Catalogue, width: int) -> list[Record]:
    """Return a record of SUITE_COLUMNS for each suite; a table of them is `width` wide."""
    records = [_record(name, catalogue) for name in catalogue.suites]
    others = SUITE_COLUMNS[:-1]
    taken = sum(_width(column, records) + _GAP for column in others)
    for record in records:
        room = max(width - taken, _NARROWEST)
        record["description"] = textwrap.fill(
            record["description"], room, break_on_hyphens=False, break_long_words=False
        )
    return records


def _record(name: str, catalogue: Catalogue) -> Record:
    suite, rows = catalogue.suites[name], suites.select(name, catalogue)
    members = f"Super-suite: {', '.join(suite.members)}." if suite.members else ""
    return {
        "suite": name,
        "tasks": len({row["task_path"] for row in rows}),
        "n_shot": " ".join(sorted({row["n_shot"] or "default" for row in rows}, key=_by_number)),
        "languages": _languages(rows, catalogue),
        "description": f"{suite.description} {members}".strip(),
    }


def _languages(rows: Sequence[Cells], catalogue: Catalogue) -> str:
    codes = list(dict.fromkeys(row["language"] for row in rows if row["language"]))
    if len(codes) > _NAMED:
        return str(len(codes))
    return " ".join(catalogue.languages[code].alpha2 for code in codes)


def _by_number(text: str) -> tuple[int, str]:
    return (len(text), text)


def _width(column: str, records: list[Record]) -> int:
    return max(len(column) + _PADDING, *(len(str(record[column])) for record in records))
