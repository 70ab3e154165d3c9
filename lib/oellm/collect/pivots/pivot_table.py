"""A matrix of scores as records to print: plain for programs, marked up for people."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

from oellm.collect.pivots.averages import AVERAGE, Average, Scope, make_averages
from oellm.collect.pivots.pivot import AxisKey, MatrixAxis, ScoreMatrix, ValueNames
from oellm.core.markup import ScoreCell
from oellm.core.tables import Values
from oellm.metrics.columns import column_types
from oellm.metrics.comparability import letter_footnotes
from oellm.metrics.model_names import ModelName, describe_left_out, short_names
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.tasks.suites import SuiteWeights


class SheetStyle(NamedTuple):
    """What a sheet shows.

    Attributes:
        for_people: short names of models, the best scores marked, and a score and its error in one
            cell; otherwise plain numbers, with errors in columns of their own.
        averages: over what averages are taken; None for none.
    """

    for_people: bool
    with_stderr: bool = False
    averages: Scope | None = None


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


def make_sheet(
    matrix: ScoreMatrix, style: SheetStyle, suites: SuiteWeights = MappingProxyType({})
) -> Sheet:
    """Return a row for each row of the matrix: its names, its scores, and their averages.

    `suites` has the tasks of all suites, if averages are over suites.
    """
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
    if style.averages:
        averages, notes = make_averages(matrix, heads, style.averages, suites=suites)
        columns |= _average_columns(averages, style, taken=columns)
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
    used = {*taken, AVERAGE}
    distinguishing = axis.distinguishing_columns()
    return {key: _free_head(axis.label(key, distinguishing[key], names), used) for key in axis.keys}


def _free_head(label: str, used: set[str]) -> str:
    """Return a label with a number if it, or the head of its errors, is used; it is used then."""
    head = label
    count = 1
    while used & {head, _stderr_head(head)}:
        count += 1
        head = f"{label} #{count}"
    used |= {head, _stderr_head(head)}
    return head


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


def _average_columns(
    averages: Iterable[Average], style: SheetStyle, taken: Iterable[str]
) -> dict[str, list[Any]]:
    """Return the columns of averages, by heads that are not taken."""
    columns: dict[str, list[Any]] = {}
    used = {*taken}
    for average in averages:
        head = _free_head(average.head, used)
        if style.for_people:
            columns[head] = _average_cells(average, style.with_stderr)
            continue
        columns[head] = list(average.values)
        if style.with_stderr:
            columns[_stderr_head(head)] = list(average.stderrs)
    return columns


def _average_cells(average: Average, with_stderr: bool) -> list[ScoreCell | None]:
    known = {mean for mean in average.values if mean is not None}
    return [
        None
        if mean is None
        else ScoreCell(
            mean,
            stderr=stderr if with_stderr else None,
            is_best=len(known) > 1 and mean == max(known),
        )
        for mean, stderr in zip(average.values, average.stderrs, strict=True)
    ]
