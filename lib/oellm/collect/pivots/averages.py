"""Averages of the rows of a matrix: over all tasks, those of each suite, or of each language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from oellm.collect.pivots.pivot import AxisKey, ScoreMatrix
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.tasks.suites import SuiteTask, SuiteWeights

# The head of the average over all tasks, and the beginning of other averages' heads.
AVERAGE = "average"
# The number of suites that a note names.
_NAMED = 5


class Scope(str, Enum):
    """Over what an average is taken."""

    ALL = "all"
    SUITE = "suite"
    LANGUAGE = "language"


class Average(NamedTuple):
    """A column of averages.

    Attributes:
        values: The average of each row; None if there is none.
        stderrs: Their standard errors; None if that of a score is unknown.
    """

    head: str
    values: list[float | None]
    stderrs: list[float | None]


# By head, the columns that averages may include: a score for each row.
_Columns = Mapping[str, Sequence[MetricRecord]]


def make_averages(
    matrix: ScoreMatrix, heads: Mapping[AxisKey, str], scope: Scope, *, suites: SuiteWeights
) -> tuple[list[Average], list[str]]:
    """Return the averages of each row of a matrix with tasks in its columns, and notes.

    An average includes complete columns only: those with a score in every row, all comparable, of
    which more is better. Scores on a scale beyond 1 count only if all are on such a scale. Parts of
    a group do not count if the group does. The standard error takes tasks as independent: the root
    of the sum of the squares of weight × stderr, by the sum of the weights.
    """
    columns, left_out = _suitable_columns(matrix, heads)
    parts: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    if scope is Scope.ALL:
        parts[AVERAGE] = dict.fromkeys(columns, 1.0)
    elif scope is Scope.LANGUAGE:
        for head, column in columns.items():
            languages = {cell.language for cell in column}
            if len(languages) == 1 and (language := min(languages)):
                parts.setdefault(f"{AVERAGE} {language}", {})[head] = 1.0
    else:
        parts, notes = _suite_parts(columns, suites)
    averages = []
    for name, weights in parts.items():
        large = _large_columns(weights, columns)
        if large:
            reason = "its scale goes beyond 1, unlike that of others"
            left_out.setdefault(reason, []).extend(large)
        kept = {head: weight for head, weight in weights.items() if head not in large}
        averages.append(_average(name, kept, columns, rows=len(matrix.rows.keys)))
    told = [
        f"average without {', '.join(dict.fromkeys(names))}: {why}"
        for why, names in left_out.items()
    ]
    if not any(value is not None for each in averages for value in each.values):
        notes.append("no average: no column is suitable")
    return averages, [*told, *notes]


def _suitable_columns(
    matrix: ScoreMatrix, heads: Mapping[AxisKey, str]
) -> tuple[dict[str, list[MetricRecord]], dict[str, list[str]]]:
    """Return the columns that averages include, by head, and the heads of the others by reason."""
    left_out: dict[str, list[str]] = {}
    columns: dict[str, list[MetricRecord]] = {}
    tasks = {cell.task for cell in matrix.cells.values()}
    for number, (line, head) in enumerate(zip(matrix.lines(), heads.values(), strict=True)):
        cells = [matrix.cells[place] for place in line if place in matrix.cells]
        is_mixed = number in matrix.mixed
        reason = _no_average_reason(cells, len(line), is_mixed=is_mixed)
        if not reason and any(cell.group in tasks - {cell.task} for cell in cells):
            reason = "parts of groups that count themselves"
        if reason:
            left_out.setdefault(reason, []).append(head)
        else:
            columns[head] = cells
    return columns, left_out


def _large_columns(heads: Iterable[str], columns: _Columns) -> list[str]:
    """Return the columns whose scale goes beyond 1, if that of others does not."""
    is_large = {head: max(abs(cell.value) for cell in columns[head]) > 1 for head in heads}
    return [] if all(is_large.values()) else [head for head in heads if is_large[head]]


def _no_average_reason(cells: Sequence[MetricRecord], expected: int, is_mixed: bool) -> str:
    """Return why averages leave out a column; empty if they do not."""
    if len(cells) < expected:
        return "not every row has a score"
    if any(cell.aggregate == PARTIAL for cell in cells):
        return "scores of groups from some of their tasks only"
    if is_mixed:
        return "its scores cannot be compared"
    directions = {cell.higher_is_better for cell in cells}
    if directions != {True}:
        return "lower is better" if directions == {False} else "unknown whether higher is better"
    return ""


def _suite_parts(
    columns: _Columns, suites: SuiteWeights
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the columns of each suite that is complete, with their weights, and notes."""
    heads: dict[SuiteTask, dict[str, None]] = {}
    for head, column in columns.items():
        for cell in column:
            shots = "" if cell.n_shot is None else str(cell.n_shot)
            # The suite may leave the shots to the task.
            for each in {shots, ""}:
                heads.setdefault(SuiteTask(cell.task, each, cell.eval_suite), {})[head] = None
    parts: dict[str, dict[str, float]] = {}
    missing: dict[str, int] = {}
    doubtful: dict[str, str] = {}
    for name, weights in suites.items():
        found = {task: list(heads[task]) for task in weights if task in heads}
        several = next((task.task for task, each in found.items() if len(each) > 1), "")
        if found and len(found) < len(weights):
            missing[name] = len(weights) - len(found)
        elif several:
            doubtful[name] = several
        elif found:
            parts[f"{AVERAGE} {name}"] = {
                head: weights[task] for task, each in found.items() for head in each
            }
    lacking = {
        name: f"{missing[name]} of {len(suites[name])}"
        for name in sorted(missing, key=lambda name: missing[name])
    }
    return parts, [
        *_name_suites("that lack tasks", lacking),
        *_name_suites("of which a task has several columns", doubtful),
    ]


def _name_suites(fault: str, details: Mapping[str, str]) -> Iterator[str]:
    """Yield a note on the suites that have no average because of a fault, if there are any."""
    if details:
        shown = ", ".join(f"{name} ({text})" for name, text in [*details.items()][:_NAMED])
        more = f" and {len(details) - _NAMED} more" if len(details) > _NAMED else ""
        yield f"no average of suites {fault}: {shown}{more}"


def _average(name: str, weights: Mapping[str, float], columns: _Columns, *, rows: int) -> Average:
    """Return the weighted average of some columns."""
    if not weights:
        return Average(name, [None] * rows, [None] * rows)
    total = math.fsum(weights.values())
    values: list[float | None] = []
    stderrs: list[float | None] = []
    for row in range(rows):
        cells = [(columns[head][row], weight) for head, weight in weights.items()]
        values.append(math.fsum(weight * cell.value for cell, weight in cells) / total)
        squares = [(weight * cell.stderr) ** 2 for cell, weight in cells if cell.stderr is not None]
        is_known = len(squares) == len(cells)
        stderrs.append(math.sqrt(math.fsum(squares)) / total if is_known else None)
    return Average(name, values, stderrs)
