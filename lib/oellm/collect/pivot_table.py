"""A matrix of scores as records to print: plain for programs, marked up for people."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.collect.pivot import Axis, Key, Matrix, Names
from oellm.core import schema
from oellm.core.markup import Score
from oellm.core.tables import text
from oellm.metrics.records import PARTIAL, Record

_AVERAGE = "average"


class Style(NamedTuple):
    """What a sheet shows."""

    # Names without the directories that all have, the best scores marked, one cell for a score
    # and its error; else numbers alone, errors in columns of their own.
    for_people: bool
    with_stderr: bool = False
    with_average: bool = False


class Sheet(NamedTuple):
    """Records of a pivot, the types of their columns as in schema.json, and notes, a line each."""

    types: dict[str, str]
    records: list[Record]
    notes: list[str]


def of_matrix(matrix: Matrix, style: Style) -> Sheet:
    """Return a record for each row: what tells it from others, its scores, and their average."""
    known = schema.table("metric")
    names = _short_names(matrix) if style.for_people else {}
    best = _best(matrix) if style.for_people else set()
    rows = matrix.rows.keys
    columns: dict[str, list[Any]] = {}
    for column in _row_columns(matrix.rows):
        values = [matrix.rows.value(row, column) for row in rows]
        columns[column] = [names.get((column, value), value) for value in values]
    types = {column: known[column]["type"] for column in columns}
    heads = _heads(matrix.cols, columns, names)
    for col, head in heads.items():
        cells = [matrix.cells.get((row, col)) for row in rows]
        marked = [(row, col) in best for row in rows]
        columns[head] = [_shown(*cell, style) for cell in zip(cells, marked, strict=True)]
        if style.with_stderr and not style.for_people:
            columns[_stderr(head)] = [cell["stderr"] if cell else None for cell in cells]
    notes: list[str] = []
    if style.with_average:
        averages, notes = _averages(matrix, heads)
        columns[_AVERAGE] = _marked(averages) if style.for_people else averages
    types |= dict.fromkeys(columns.keys() - types.keys(), "number")
    lines = zip(*columns.values(), strict=True)
    records = [dict(zip(columns, line, strict=True)) for line in lines]
    return Sheet({column: types[column] for column in columns}, records, notes)


def _row_columns(axis: Axis) -> list[str]:
    """Return the columns that tell the rows apart."""
    needed = {column for further in axis.further().values() for column in further}
    return [*axis.told, *(column for column in axis.columns if column in needed)]


def _heads(axis: Axis, taken: Iterable[str], names: Names) -> dict[Key, str]:
    """Return a head for each column, all of them distinct, also with an error's behind them."""
    used = {*taken, _AVERAGE}
    further = axis.further()
    heads = {}
    for key in axis.keys:
        label = head = axis.label(key, further[key], names)
        count = 1
        while used & {head, _stderr(head)}:
            count += 1
            head = f"{label} #{count}"
        used |= {head, _stderr(head)}
        heads[key] = head
    return heads


def _stderr(head: str) -> str:
    return f"{head} stderr"


def _shown(cell: Record | None, is_best: bool, style: Style) -> Any:
    if cell is None or not style.for_people:
        return cell["value"] if cell else None
    stderr = cell["stderr"] if style.with_stderr else None
    return Score(cell["value"], stderr, is_best, cell["aggregate"] == PARTIAL)


def _short_names(matrix: Matrix) -> Names:
    """Return the models' names without the directories that all of them are in.

    Two parts of a path stay at least: `run/iter_1000`, and hub ids as they are. Names that would
    be alike stay whole.
    """
    column = "model_path"
    axis = next((axis for axis in (matrix.rows, matrix.cols) if column in axis.columns), None)
    if axis is None:
        return {}
    models = dict.fromkeys(text(axis.value(key, column)) for key in axis.keys)
    parts = {model: model.partition(",")[0].rstrip("/").split("/") for model in models}
    levels = zip(*(path[:-2] for path in parts.values() if len(path) > 2), strict=False)
    shared = list(itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    # Of the root alone nothing is cut: what follows would look like a hub id.
    if len(shared) < 2:
        return {}
    cut = "".join(f"{level[0]}/" for level in shared)
    short = {model: model.removeprefix(cut) for model in models}
    if len(set(short.values())) < len(short):
        return {}
    return {(column, model): name for model, name in short.items()}


def _best(matrix: Matrix) -> set[tuple[Key, Key]]:
    """Return the cells that are the best of their line, where it is known what is better."""
    found = set()
    for places in matrix.lines():
        cells = {place: matrix.cells[place] for place in places if place in matrix.cells}
        directions = {cell["higher_is_better"] for cell in cells.values()}
        if len(cells) > 1 and directions in ({True}, {False}):
            values = [cell["value"] for cell in cells.values()]
            best = max(values) if directions == {True} else min(values)
            found |= {place for place, cell in cells.items() if cell["value"] == best}
    return found


def _averages(matrix: Matrix, heads: Mapping[Key, str]) -> tuple[list[float | None], list[str]]:
    """Return the mean of each row over the columns that have one, and why others have none."""
    left_out: dict[str, list[str]] = {}
    columns: dict[str, list[float]] = {}
    for line, head in zip(matrix.lines(), heads.values(), strict=True):
        cells = [matrix.cells[place] for place in line if place in matrix.cells]
        if reason := _no_average(cells, len(line)):
            left_out.setdefault(reason, []).append(head)
        else:
            columns[head] = [cell["value"] for cell in cells]
    # A share and a score out of 100 have no mean.
    high = [head for head, values in columns.items() if max(map(abs, values)) > 1]
    if len(high) < len(columns):
        for head in high:
            left_out.setdefault("its scale goes beyond 1, that of others does not", []).append(head)
            del columns[head]
    notes = [f"average without {', '.join(names)}: {why}" for why, names in left_out.items()]
    if not columns:
        return [None] * len(matrix.rows.keys), [*notes, "no average: no column is fit for one"]
    return [math.fsum(row) / len(row) for row in zip(*columns.values(), strict=True)], notes


def _no_average(cells: Sequence[Record], expected: int) -> str:
    """Return why a column is left out of averages, empty where it is not."""
    if len(cells) < expected:
        return "not every row has a score"
    if any(cell["aggregate"] == PARTIAL for cell in cells):
        return "scores of groups from some of their tasks only"
    directions = {cell["higher_is_better"] for cell in cells}
    if directions != {True}:
        return "lower is better" if directions == {False} else "unknown whether higher is better"
    return ""


def _marked(averages: Sequence[float | None]) -> list[Score | None]:
    known = [mean for mean in averages if mean is not None]
    return [
        None if mean is None else Score(mean, None, len(known) > 1 and mean == max(known))
        for mean in averages
    ]
