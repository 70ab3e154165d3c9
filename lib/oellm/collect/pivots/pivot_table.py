"""A matrix of scores as records to print: plain for programs, marked up for people."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.collect.pivots.pivot import AxisKey, MatrixAxis, ScoreMatrix, ValueNames
from oellm.core.markup import ScoreCell
from oellm.core.tables import Values
from oellm.metrics.columns import column_types
from oellm.metrics.comparability import letter_footnotes
from oellm.metrics.model_names import ModelName, describe_left_out, short_names
from oellm.metrics.records import PARTIAL, MetricRecord

_AVERAGE = "average"


class SheetStyle(NamedTuple):
    """What a sheet shows.

    Attributes:
        for_people: short names of models, the best scores marked, and a score and its error in one
            cell; otherwise plain numbers, with errors in columns of their own.
    """

    for_people: bool
    with_stderr: bool = False
    with_average: bool = False


class Sheet(NamedTuple):
    """A pivot as rows to print.

    Attributes:
        types: the columns, each with its type as in schema.json.
        rows: one value for each column.
        caption: what holds for the scores, and the footnotes; part of a table for people.
        notes: what the user should know, one line each.
    """

    types: dict[str, str]
    rows: list[Values]
    caption: list[str]
    notes: list[str]


def make_sheet(matrix: ScoreMatrix, style: SheetStyle) -> Sheet:
    """Return a row for each row of the matrix: its names, its scores, and their average."""
    names = _short_names(matrix) if style.for_people else {}
    best = _best(matrix) if style.for_people else set()
    places = itertools.product(matrix.rows.keys, matrix.cols.keys)
    letters = letter_footnotes(t for place in places for t in matrix.footnotes.get(place, ()))
    rows = matrix.rows.keys
    columns: dict[str, list[Any]] = {}
    for column in _row_columns(matrix.rows):
        values = [matrix.rows.value(row, column) for row in rows]
        columns[column] = [names.get((column, value), value) for value in values]
    types = column_types(columns)
    heads = _heads(matrix.cols, columns, names)
    for col, head in heads.items():
        cells = [matrix.cells.get((row, col)) for row in rows]
        if style.for_people:
            marked = [(row, col) in best for row in rows]
            columns[head] = [
                _score_cell(cell, is_best, style.with_stderr)._replace(
                    footnotes=",".join(letters[t] for t in matrix.footnotes.get((row, col), ()))
                )
                if cell
                else None
                for row, cell, is_best in zip(rows, cells, marked, strict=True)
            ]
            continue
        columns[head] = [cell.value if cell else None for cell in cells]
        if style.with_stderr:
            columns[_stderr_head(head)] = [cell.stderr if cell else None for cell in cells]
    notes: list[str] = []
    if style.with_average:
        averages, notes = _averages(matrix, heads)
        columns[_AVERAGE] = _average_cells(averages) if style.for_people else averages
    types |= dict.fromkeys(columns.keys() - types.keys(), "number")
    return Sheet(
        types={column: types[column] for column in columns},
        rows=list(zip(*columns.values(), strict=True)),
        caption=[*matrix.caption, *(f"({letter}) {text}" for text, letter in letters.items())],
        notes=[*notes, *filter(None, [_left_out(matrix)] if style.for_people else [])],
    )


def _row_columns(axis: MatrixAxis) -> list[str]:
    """Return the columns that tell the rows apart."""
    needed = {name for names in axis.distinguishing_columns().values() for name in names}
    return [*axis.asked, *(column for column in axis.columns if column in needed)]


def _heads(axis: MatrixAxis, taken: Iterable[str], names: ValueNames) -> dict[AxisKey, str]:
    """Return a head for each column; all heads, and those of their errors, are distinct."""
    used = {*taken, _AVERAGE}
    distinguishing = axis.distinguishing_columns()
    heads = {}
    for key in axis.keys:
        label = head = axis.label(key, distinguishing[key], names)
        count = 1
        while used & {head, _stderr_head(head)}:
            count += 1
            head = f"{label} #{count}"
        used |= {head, _stderr_head(head)}
        heads[key] = head
    return heads


def _stderr_head(head: str) -> str:
    return f"{head} stderr"


def _score_cell(record: MetricRecord, is_best: bool, with_stderr: bool) -> ScoreCell:
    return ScoreCell(
        value=record.value,
        stderr=record.stderr if with_stderr else None,
        is_best=is_best,
        is_partial=record.aggregate == PARTIAL,
    )


def _short_names(matrix: ScoreMatrix) -> ValueNames:
    return {
        ("model_path", model.path): name for model, name in short_names(_models(matrix)).items()
    }


def _left_out(matrix: ScoreMatrix) -> str:
    return describe_left_out(short_names(_models(matrix)))


def _models(matrix: ScoreMatrix) -> list[ModelName]:
    axes = (axis for axis in (matrix.rows, matrix.cols) if "model_path" in axis.columns)
    return [ModelName(axis.value(key, "model_path")) for axis in axes for key in axis.keys]


def _best(matrix: ScoreMatrix) -> set[tuple[AxisKey, AxisKey]]:
    """Return the best cells of each line in which all cells have the same known direction."""
    best_cells = set()
    for number, places in enumerate(matrix.lines()):
        if number in matrix.mixed:
            continue
        cells = {place: matrix.cells[place] for place in places if place in matrix.cells}
        directions = {cell.higher_is_better for cell in cells.values()}
        if len(cells) > 1 and directions in ({True}, {False}):
            values = [cell.value for cell in cells.values()]
            if min(values) == max(values):
                continue
            best = max(values) if directions == {True} else min(values)
            best_cells |= {place for place, cell in cells.items() if cell.value == best}
    return best_cells


def _averages(
    matrix: ScoreMatrix, heads: Mapping[AxisKey, str]
) -> tuple[list[float | None], list[str]]:
    """Return the mean of each row, and notes on the columns that the mean leaves out."""
    left_out: dict[str, list[str]] = {}
    columns: dict[str, list[float]] = {}
    for number, (line, head) in enumerate(zip(matrix.lines(), heads.values(), strict=True)):
        cells = [matrix.cells[place] for place in line if place in matrix.cells]
        is_mixed = number in matrix.mixed
        if reason := _no_average_reason(cells, len(line), is_mixed=is_mixed):
            left_out.setdefault(reason, []).append(head)
        else:
            columns[head] = [cell.value for cell in cells]
    # A mean of shares and of scores out of 100 says nothing.
    high = [head for head, values in columns.items() if max(map(abs, values)) > 1]
    if len(high) < len(columns):
        for head in high:
            left_out.setdefault("its scale goes beyond 1, unlike that of others", []).append(head)
            del columns[head]
    notes = [f"average without {', '.join(names)}: {why}" for why, names in left_out.items()]
    if not columns:
        return [None] * len(matrix.rows.keys), [*notes, "no average: no column is suitable"]
    return [math.fsum(row) / len(row) for row in zip(*columns.values(), strict=True)], notes


def _no_average_reason(cells: Sequence[MetricRecord], expected: int, is_mixed: bool) -> str | None:
    """Return why averages leave out a column, None if they do not."""
    if len(cells) < expected:
        return "not every row has a score"
    if any(cell.aggregate == PARTIAL for cell in cells):
        return "scores of groups from some of their tasks only"
    if is_mixed:
        return "its scores cannot be compared"
    directions = {cell.higher_is_better for cell in cells}
    if directions != {True}:
        return "lower is better" if directions == {False} else "unknown whether higher is better"
    return None


def _average_cells(averages: Sequence[float | None]) -> list[ScoreCell | None]:
    known = {mean for mean in averages if mean is not None}
    return [
        None if mean is None else ScoreCell(mean, is_best=len(known) > 1 and mean == max(known))
        for mean in averages
    ]
