"""What `oe-manifest --list` prints: all suites, or the rows of some."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from oellm.core import tables
from oellm.core.display import shorten_end
from oellm.tasks import suites
from oellm.tasks.suite_files import Cells, KnownSuites

# The manifest's columns that each row has, in the order of a listing.
ROW_COLUMNS = ("task_group", "task_path", "n_shot", "eval_suite", "language", "primary_metric")

# Most languages of a suite that are named; more are counted.
_NAMED = 4
# Gap between columns of a table; padding of a header.
_GAP = _PADDING = 2
# Least width of a description that is wrapped; and of one that is cut, else none is shown.
_NARROWEST = 30
_SHORTEST = 16


class SuiteSummary(NamedTuple):
    """A suite, as a table shows it.

    Attributes:
        suite: Its name.
        tasks: Number of its tasks.
        n_shot: The shots of its rows, separated by blanks.
        languages: Two-letter codes of its languages, or their number.
        description: What it is, on lines that fit the table.
    """

    suite: str
    tasks: int
    n_shot: str
    languages: str
    description: str


def write_csv(selections: Sequence[str], known: KnownSuites, stream: TextIO) -> None:
    """Write the rows of selections, or of every suite if there are none, as CSV."""
    rows, columns = list_rows(selections, known)
    tables.write_rows(tables.select_values(rows, columns), columns, layout="csv", stream=stream)


def write_tables(selections: Sequence[str], known: KnownSuites, width: int, stream: TextIO) -> None:
    """Write a table for each suite of the selections, or, if there are none, one of all suites.

    All are `width` characters wide at most.
    """
    if not selections:
        lines = [line for suite in list_suites(known, width) for line in _table_lines(suite)]
        tables.write_rows(lines, list(SuiteSummary._fields), layout="table", stream=stream)
        return
    rows, columns = list_rows(selections, known)
    columns.remove("task_group")
    gap = ""
    for name, of_suite in itertools.groupby(rows, lambda row: row["task_group"]):
        described = f"{name}: {known.suites[name].description}".rstrip(": ")
        stream.write(f"{gap}{textwrap.fill(described, width, break_on_hyphens=False)}\n\n")
        tables.write_rows(
            tables.select_values(of_suite, columns),
            columns,
            layout="table",
            stream=stream,
            spare=("eval_suite", "primary_metric"),
        )
        gap = "\n"


def _table_lines(summary: SuiteSummary) -> Iterator[tuple[str | int | None, ...]]:
    """Yield the lines of a suite: the further ones have the rest of its description only."""
    first, *further = summary.description.split("\n")
    yield summary._replace(description=first)
    yield from (("", None, "", "", text) for text in further)


def list_rows(
    selections: Sequence[str], known: KnownSuites
) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows of selections, or of every suite if there are none, and their columns.

    The columns are ROW_COLUMNS, and after them the settings that a row has.
    """
    plain = [name for name, suite in known.suites.items() if suite.rows]
    rows = [
        row for selection in selections or plain for row in suites.select_rows(selection, known)
    ]
    columns = list(dict.fromkeys([*ROW_COLUMNS, *(column for row in rows for column in row)]))
    return [{column: row.get(column, "") for column in columns} for row in rows], columns


def list_suites(known: KnownSuites, width: int) -> list[SuiteSummary]:
    """Return all suites, with descriptions that make a table of them `width` characters wide."""
    summaries = [_summarize(name, known) for name in known.suites]
    taken = sum(
        _column_width(name, [str(summary[at]) for summary in summaries]) + _GAP
        for at, name in enumerate(SuiteSummary._fields[:-1])
    )
    room = width - taken
    return [summary._replace(description=_fill(summary.description, room)) for summary in summaries]


def _fill(text: str, room: int) -> str:
    """Return a description for a column of this width: on lines, cut, or none."""
    if room < _NARROWEST:
        return shorten_end(text, room) if room >= _SHORTEST else ""
    return textwrap.fill(text, room, break_on_hyphens=False, break_long_words=False)


def _summarize(name: str, known: KnownSuites) -> SuiteSummary:
    suite, rows = known.suites[name], suites.select_rows(name, known)
    members = f"Super-suite of {' '.join(suite.members)}" if suite.members else ""
    shots = sorted({row["n_shot"] or "default" for row in rows}, key=lambda text: (len(text), text))
    return SuiteSummary(
        suite=name,
        tasks=len({row["task_path"] for row in rows}),
        n_shot=" ".join(shots),
        languages=_summarize_languages(rows, known),
        description=f"{suite.description} {members}".strip(),
    )


def _summarize_languages(rows: Sequence[Cells], known: KnownSuites) -> str:
    codes = list(dict.fromkeys(row["language"] for row in rows if row["language"]))
    if len(codes) > _NAMED:
        return str(len(codes))
    return " ".join(known.languages[code].alpha2 for code in codes)


def _column_width(header: str, texts: Iterable[str]) -> int:
    return max(len(header) + _PADDING, *map(len, texts))
