"""What `oe-manifest --list` prints: all suites, or the rows of some."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from oellm.core import tables
from oellm.core.display import shorten_end
from oellm.errors import UsageError
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
        framework: The frameworks of its rows, separated by blanks.
        languages: Two-letter codes of its languages, or their number.
        description: What it is.
    """

    suite: str
    tasks: int
    n_shot: str
    framework: str
    languages: str
    description: str


class Listing(NamedTuple):
    """What is listed.

    Attributes:
        known: All suites.
        selections: Suites, or parts of them; none means every suite.
        words: Each row that is listed has all of them; see `search`.
    """

    known: KnownSuites
    selections: Sequence[str] = ()
    words: Sequence[str] = ()


def write_csv(listing: Listing, stream: TextIO) -> None:
    """Write the rows as CSV; raises UsageError if there are none."""
    rows, columns = list_rows(listing)
    tables.write_rows(tables.select_values(rows, columns), columns, layout="csv", stream=stream)


def write_tables(listing: Listing, width: int, stream: TextIO) -> None:
    """Write a table for each suite of the selections, or, if there are none, one of all suites.

    All are `width` characters wide at most. Raises UsageError if there is nothing to list.
    """
    if not listing.selections:
        summaries = list_suites(listing)
        room = _room(summaries, width)
        lines = [line for each in summaries for line in _table_lines(each, room)]
        # A table leaves out a column without any value: here the descriptions, if there is no room.
        tables.write_rows(lines, SuiteSummary._fields, layout="table", stream=stream)
        return
    rows, columns = list_rows(listing)
    columns.remove("task_group")
    names = {reference: name for name, reference in listing.known.sources.items()}
    # A pinned reference is too long for a terminal.
    heads = ["source" if column == "include_path" else column for column in columns]
    gap = ""
    for name, of_suite in itertools.groupby(rows, lambda row: row["task_group"]):
        suite = listing.known.suites[name]
        described = f"{name}: {suite.description} {suite.url}".rstrip(": ")
        stream.write(f"{gap}{_wrap(described, width)}\n\n")
        cells = ([names.get(row[column], row[column]) for column in columns] for row in of_suite)
        spare = ("eval_suite", "primary_metric")
        tables.write_rows(cells, heads, layout="table", stream=stream, spare=spare)
        gap = "\n"


def list_rows(listing: Listing) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows, and their columns: ROW_COLUMNS, and after them the settings that a row has.

    Raises UsageError if there are no rows.
    """
    known = listing.known
    plain = [name for name, suite in known.suites.items() if suite.rows]
    rows = [
        row
        for selection in listing.selections or plain
        for row in search(listing.words, suites.select_rows(selection, known), known)
    ]
    _require_any(rows, listing)
    columns = list(dict.fromkeys([*ROW_COLUMNS, *(column for row in rows for column in row)]))
    return [{column: row.get(column, "") for column in columns} for row in rows], columns


def list_suites(listing: Listing) -> list[SuiteSummary]:
    """Return all suites that have rows with the words; raises UsageError if none has."""
    known = listing.known
    found = {
        name: search(listing.words, suites.select_rows(name, known), known) for name in known.suites
    }
    summaries = [_summarize(name, rows, known) for name, rows in found.items() if rows]
    _require_any(summaries, listing)
    return summaries


def search(words: Sequence[str], rows: Sequence[Cells], known: KnownSuites) -> list[Cells]:
    """Return the rows that have all words, in upper or lower case.

    A word that is a spelling of a language, or the beginning of its code (`deu`), is in the rows in
    that language. Any other is a part of the name of a suite, a task, a framework or a metric.
    """
    return [row for row in rows if all(_has_word(word.lower(), row, known) for word in words)]


def _has_word(word: str, row: Cells, known: KnownSuites) -> bool:
    codes = {
        one.code
        for one in known.languages.values()
        if one.is_spelled(word) or word == one.code.lower().partition("_")[0]
    }
    if codes:
        return row["language"] in codes
    names = ("task_group", "task_path", "eval_suite", "primary_metric")
    return any(word in row[name].lower() for name in names)


def _require_any(found: Sequence[object], listing: Listing) -> None:
    if not found:
        raise UsageError(f"--list: no row of a suite has {' and '.join(map(repr, listing.words))}")


def _table_lines(summary: SuiteSummary, room: int) -> Iterator[tuple[str | int | None, ...]]:
    """Yield the lines of a suite: the further ones have the rest of its longer cells only."""
    texts = _fill(summary.description, room)
    for number, (framework, text) in enumerate(
        itertools.zip_longest(summary.framework.split(), texts, fillvalue="")
    ):
        suite, tasks, shots, _, languages, _ = summary if not number else ("", None, "", "", "", "")
        yield suite, tasks, shots, framework, languages, text


def _fill(text: str, room: int) -> list[str]:
    """Return the lines of a description for a column of this width: all, one cut, or none."""
    if room < _NARROWEST:
        return [shorten_end(text, room)] if room >= _SHORTEST else []
    return _wrap(text, room).splitlines()


def _wrap(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _room(summaries: Sequence[SuiteSummary], width: int) -> int:
    """Return how much of a table's width is left for descriptions; below 0 if it is too narrow."""
    taken = 0
    for at, name in enumerate(SuiteSummary._fields[:-1]):
        cells = [str(summary[at]) for summary in summaries]
        texts = " ".join(cells).split() if name == "framework" else cells
        taken += max(len(name) + _PADDING, *map(len, texts)) + _GAP
    return width - taken


def _summarize(name: str, rows: Sequence[Cells], known: KnownSuites) -> SuiteSummary:
    suite = known.suites[name]
    members = f"Super-suite of {' '.join(suite.members)}" if suite.members else ""
    shots = sorted({row["n_shot"] or "default" for row in rows}, key=lambda text: (len(text), text))
    return SuiteSummary(
        suite=name,
        tasks=len({row["task_path"] for row in rows}),
        n_shot=" ".join(shots),
        framework=" ".join(dict.fromkeys(row["eval_suite"] for row in rows)),
        languages=_summarize_languages(rows, known),
        description=f"{suite.description} {members}".strip(),
    )


def _summarize_languages(rows: Iterable[Cells], known: KnownSuites) -> str:
    codes = list(dict.fromkeys(row["language"] for row in rows if row["language"]))
    if len(codes) > _NAMED:
        return str(len(codes))
    return " ".join(known.languages[code].alpha2 for code in codes)
