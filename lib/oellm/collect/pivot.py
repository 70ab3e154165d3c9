"""Metric records as a matrix: by default a row for each model, a column for each task.

A cell is one score. What makes scores comparable (task, shots, metric, filter, framework) is part
of the columns, or of the rows where these have the tasks: no line mixes two kinds of score.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from oellm.core.tables import text
from oellm.errors import UsageError
from oellm.metrics.records import PARTIAL, Record
from oellm.metrics.selection import Condition, split_columns

Key = tuple[Any, ...]
# What stands for a value of a column.
Names = Mapping[tuple[str, Any], str]

# Scores that differ in one of these are not comparable.
SCORE = ("task", "n_shot", "metric", "filter", "eval_suite")
_MODEL = ("model_path", "model_revision", "step")
# What an evaluation results in; the other columns say which evaluation it is.
_OUTCOME = ("value", "stderr", "n_samples", "higher_is_better", "is_primary", "finished")


class Request(NamedTuple):
    """What a pivot has in its rows and columns: columns of metric records."""

    rows: tuple[str, ...] = ("model_path",)
    cols: tuple[str, ...] = ("task",)
    # Parts of groups are kept where somebody names the column `group`.
    with_members: bool = False

    @classmethod
    def parse(cls, rows: str | None, cols: str | None, conditions: Iterable[Condition]) -> Request:
        """Parse the values of --rows and --cols; raises UsageError for what is no column."""
        usual = cls()
        in_rows, in_cols = _split("--rows", rows, usual.rows), _split("--cols", cols, usual.cols)
        if twice := set(in_rows) & set(in_cols):
            raise UsageError(f"--rows and --cols: {min(twice)} is in both")
        named = {*in_rows, *in_cols, *(condition.column for condition in conditions)}
        return cls(in_rows, in_cols, "group" in named)

    @property
    def scores_in_rows(self) -> bool:
        """Whether a row, not a column, holds scores of one kind."""
        if "task" in self.rows or "task" in self.cols:
            return "task" in self.rows
        return any(column in self.cols for column in _MODEL)


class Axis(NamedTuple):
    """The rows or the columns of a matrix."""

    columns: tuple[str, ...]
    # Distinct values of these columns, in order of appearance.
    keys: list[Key]
    # Of `columns`, those that a user asked for, and the shots of a task.
    told: tuple[str, ...]

    def value(self, key: Key, column: str) -> Any:
        """Return the value that a key has in a column."""
        return key[self.columns.index(column)]

    def further(self) -> dict[Key, list[str]]:
        """Return the columns besides those told that tell each key from others."""
        alike: dict[Key, list[Key]] = {}
        base = [self.columns.index(column) for column in self.told]
        for key in self.keys:
            alike.setdefault(tuple(key[place] for place in base), []).append(key)
        return {
            key: [
                column
                for place, column in enumerate(self.columns)
                if place not in base and len({other[place] for other in others}) > 1
            ]
            for others in alike.values()
            for key in others
        }

    def label(
        self, key: Key, further: Sequence[str] = (), names: Names = MappingProxyType({})
    ) -> str:
        """Return the name of a key for people: `hellaswag (5) acc_norm`."""
        parts: list[str] = []
        for column in (*self.told, *further):
            value = self.value(key, column)
            name = names.get((column, value), text(value))
            if column == "n_shot" and "task" in self.told:
                # Behind the task, which is told before.
                if name:
                    parts[-1] += f" ({name})"
            else:
                parts.append(name or f"no {column}")
        return " ".join(parts)


class Matrix(NamedTuple):
    """Scores by row and column."""

    rows: Axis
    cols: Axis
    cells: Mapping[tuple[Key, Key], Record]
    scores_in_rows: bool
    # What a user should know of it, a line each.
    notes: list[str]

    def lines(self) -> Iterator[list[tuple[Key, Key]]]:
        """Yield the places of each column, or row, that holds scores of one kind."""
        if self.scores_in_rows:
            for row in self.rows.keys:
                yield [(row, col) for col in self.cols.keys]
        else:
            for col in self.cols.keys:
                yield [(row, col) for row in self.rows.keys]


def of_records(records: Iterable[Record], request: Request) -> Matrix:
    """Return the matrix of the primary metrics, or of all where an axis has the metric.

    Rows and columns are in the order in which they appear. Raises UsageError where results of
    several limits would be mixed, or two scores are meant for one cell.
    """
    every_metric = "metric" in (*request.rows, *request.cols)
    met: Counter[str] = Counter()
    chosen: list[Record] = []
    for record in records:
        met[record["metric"]] += 1
        if every_metric or record["is_primary"]:
            chosen.append(record)
    kept = [one for one in chosen if request.with_members or not one["group"]]
    lost = [] if request.with_members else _lost_groups(chosen, kept)
    if met and not kept:
        why = lost or [f"none is of a primary metric; there are {', '.join(met)}"]
        raise UsageError(f"no score to show in {met.total()} records: {why[0]}")
    _require_one_limit(kept, request)
    rows, cols = _axes(kept, request)
    cells: dict[tuple[Key, Key], Record] = {}
    for record in kept:
        row, col = _key(record, rows.columns), _key(record, cols.columns)
        if cells.setdefault((row, col), record) != record:
            raise _two_in_one(cells[row, col], record, f"{rows.label(row)}, {cols.label(col)}")
    notes = [*lost, *_gaps(kept, len(cells), len(rows.keys) * len(cols.keys))]
    return Matrix(rows, cols, cells, request.scores_in_rows, notes)


def _split(option: str, given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return usual
    if columns := split_columns(option, given):
        return tuple(columns)
    raise UsageError(f"{option}: expected columns of metric records, got {given!r}")


def _axes(records: Sequence[Record], request: Request) -> tuple[Axis, Axis]:
    """Return rows and columns, one of which has what makes scores comparable."""
    axes = []
    for asked, has_score in (
        (request.rows, request.scores_in_rows),
        (request.cols, not request.scores_in_rows),
    ):
        others = (*request.rows, *request.cols)
        joined = tuple(c for c in SCORE if c not in others) if has_score else ()
        columns = (*asked, *joined)
        keys = list(dict.fromkeys(_key(record, columns) for record in records))
        axes.append(Axis(columns, keys, _told(asked, columns)))
    return axes[0], axes[1]


def _told(asked: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that were asked for, with the shots behind the task."""
    told = [column for column in asked if column != "n_shot" or "task" not in asked]
    if "task" in told and "n_shot" in columns:
        told.insert(told.index("task") + 1, "n_shot")
    return tuple(told)


def _key(record: Record, columns: Sequence[str]) -> Key:
    return tuple(record[column] for column in columns)


def _require_one_limit(records: Sequence[Record], request: Request) -> None:
    limits = Counter(record["limit"] for record in records)
    if len(limits) > 1 and "limit" not in (*request.rows, *request.cols):
        found = ", ".join(f"{text(limit) or 'none'} ({number})" for limit, number in limits.items())
        choices = " or ".join(f"--filter limit={text(limit)}" for limit in limits)
        raise UsageError(
            f"expected scores of one limit, got several, with so many scores: {found}; "
            f"choose with {choices}, or take limit into --rows or --cols"
        )


def _two_in_one(one: Record, other: Record, cell: str) -> UsageError:
    differing = [column for column in one if one[column] != other[column]]
    # An identity says less to people than what it stands for.
    telling = sorted(set(differing) - set(_OUTCOME), key=lambda column: column == "eval_id")
    choice = (telling or differing)[0]
    return UsageError(
        f"two scores for one cell ({cell}); they differ in {', '.join(differing)}: choose "
        f"with --filter '{choice}={glob.escape(text(one[choice]))}' for example, "
        f"or take {choice} into --rows or --cols"
    )


def _lost_groups(chosen: Sequence[Record], kept: Sequence[Record]) -> list[str]:
    """Return a note on groups that are asked for, but have no score of their own."""
    tasks = {record["task"] for record in kept}
    lost = dict.fromkeys(r["group"] for r in chosen if r["group"] and r["group"] not in tasks)
    if not lost:
        return []
    named = ", ".join(lost)
    return [f"left out, without a score of the group: {named}; --filter 'group=*' shows its tasks"]


def _gaps(kept: Sequence[Record], full: int, cells: int) -> Iterator[str]:
    """Yield notes on what is missing."""
    if not kept:
        yield "there is no record"
    if full < cells:
        yield f"empty cells: {cells - full} of {cells}"
    if partial := dict.fromkeys(one["task"] for one in kept if one["aggregate"] == PARTIAL):
        yield f"scores from some tasks of the group only: {', '.join(partial)}"
