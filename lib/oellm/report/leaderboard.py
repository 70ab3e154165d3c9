"""Tables of scores, models × tasks, as the report shows them: what is where, in which colour."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.manifest.checkpoint_names import natural_key
from oellm.metrics.model_names import Model, short_names
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.tasks.languages import Language, spellings

# Colours of the scale, from the worst value of a column to the best.
LEVELS = 9
# A column's colours span at least so many standard errors: noise is not shown as a difference.
_LEAST_SPAN = 4


class Head(NamedTuple):
    """What a column is of; values of different heads are never compared."""

    task: str
    n_shot: int | None
    metric: str
    filter: str
    eval_suite: str


class Column(NamedTuple):
    """A column of a board."""

    head: Head
    # The group under whose column this one is folded; empty for one that always shows.
    group: str
    # How many columns are folded under this one.
    members: int
    higher_is_better: bool | None
    is_averaged: bool


class Cell(NamedTuple):
    """A score."""

    record: MetricRecord
    # As shown; of the standard error empty where there is none.
    text: str
    stderr: str
    # Place on the colour scale, None for no colour.
    level: int | None
    is_best: bool
    is_partial: bool
    # Older results for the same cell, which it stands for.
    others: tuple[MetricRecord, ...]


class Line(NamedTuple):
    """The scores of a model."""

    model: Model
    name: str
    # One for each column.
    cells: list[Cell | None]
    # Over the columns that are averaged; None where these are fewer than two.
    average: float | None


class Board(NamedTuple):
    """A table of scores that may be compared."""

    title: str
    # Documents per task to which all its results are limited; None for full results.
    limit: float | None
    columns: list[Column]
    lines: list[Line]

    @property
    def whole(self) -> list[Column]:
        """The columns that are not folded under another."""
        return [column for column in self.columns if not column.group]

    @property
    def averaged(self) -> list[Column]:
        """The columns that the average is over."""
        return [column for column in self.columns if column.is_averaged]


def primary(records: Iterable[MetricRecord]) -> list[MetricRecord]:
    """Return the records that stand for their tasks: the marked ones; where none is, the first."""
    found: list[MetricRecord] = []
    unmarked: dict[tuple[Any, ...], MetricRecord] = {}
    for record in records:
        if record.is_primary:
            found.append(record)
        elif record.is_primary is None:
            key = (*_model(record), record.task, record.n_shot, record.limit)
            unmarked.setdefault((*key, record.eval_suite, record.run_dir), record)
    return found + list(unmarked.values())


def boards(records: Iterable[MetricRecord], title: str = "") -> list[Board]:
    """Return a board of primary records for each limit, that of the full results first."""
    by_limit: dict[float, list[MetricRecord]] = defaultdict(list)
    for record in records:
        by_limit[record.limit or 0].append(record)
    return [_board(by_limit[limit], title, limit or None) for limit in sorted(by_limit)]


def _board(records: Sequence[MetricRecord], title: str, limit: float | None) -> Board:
    table: dict[Model, dict[Head, list[MetricRecord]]] = defaultdict(lambda: defaultdict(list))
    by_head: dict[Head, list[MetricRecord]] = defaultdict(list)
    for record in records:
        head = _head(record)
        table[_model(record)][head].append(record)
        by_head[head].append(record)
    models = sorted(table, key=lambda model: (natural_key(model.path), model.revision))
    # Of several results for a cell the newest is shown.
    newest = {
        model: {
            head: sorted(found, key=lambda record: record.finished or "", reverse=True)
            for head, found in table[model].items()
        }
        for model in models
    }
    columns = []
    cells_of = []
    for head, group, members in _ordered(by_head):
        found = [newest[model].get(head, []) for model in models]
        direction = next((r.higher_is_better for r in by_head[head]), None)
        cells = _cells(found, direction)
        is_averaged = not group and direction is True and _is_whole_share(cells)
        columns.append(Column(head, group, members, direction, is_averaged))
        cells_of.append(cells)
    names = short_names(models)
    lines = []
    for place, model in enumerate(models):
        cells = [each[place] for each in cells_of]
        lines.append(Line(model, names[model], cells, _average(columns, cells)))
    return Board(title, limit, columns, lines)


def _model(record: MetricRecord) -> Model:
    return Model(record.model_path, record.model_revision or "")


def _head(record: MetricRecord) -> Head:
    return Head(
        record.task,
        record.n_shot,
        record.metric,
        "" if record.filter in (None, "none") else record.filter,
        record.eval_suite or "",
    )


def _ordered(by_head: Mapping[Head, Sequence[MetricRecord]]) -> Iterator[tuple[Head, str, int]]:
    """Yield the heads in order, each with the group that it is folded under, and its members.

    Parts of a group follow its column. Where the group has none, nothing is folded.
    """
    groups: dict[str, Head] = {}
    for head in sorted(by_head, key=lambda head: (natural_key(head.task), str(head[1:]))):
        if any(not record.group for record in by_head[head]):
            groups.setdefault(head.task, head)
    parts: dict[Head, list[tuple[Head, str]]] = defaultdict(list)
    top = []
    for head in sorted(by_head, key=lambda head: (natural_key(head.task), str(head[1:]))):
        named = {record.group for record in by_head[head]}
        group = next((name for name in sorted(filter(None, named)) if name in groups), "")
        if group and not any(not name for name in named):
            parts[groups[group]].append((head, group))
        else:
            top.append(head)
    for head in top:
        yield head, "", len(parts[head])
        for part, group in parts[head]:
            yield part, group, 0


def _cells(found: Sequence[Sequence[MetricRecord]], direction: bool | None) -> list[Cell | None]:
    """Return the cells of a column, of the results for each model, the newest first."""
    whole = [results[0] for results in found if results and not _is_partial(results[0])]
    values = [record.value for record in whole]
    low, high = min(values, default=0.0), max(values, default=0.0)
    errors = [record.stderr for record in whole if record.stderr]
    span = max(high - low, _LEAST_SPAN * statistics.median(errors) if errors else 0.0)
    best = None
    if direction is not None and low < high:
        best = high if direction else low
    decimals = _decimals(max(abs(results[0].value) for results in found if results))
    cells: list[Cell | None] = []
    for results in found:
        if not results:
            cells.append(None)
            continue
        record, is_partial = results[0], _is_partial(results[0])
        share = 0.5 + (record.value - (low + high) / 2) / span if span else 0.5
        level = None
        if best is not None and not is_partial:
            level = round((share if direction else 1 - share) * (LEVELS - 1))
        stderr = record.stderr
        cells.append(
            Cell(
                record,
                f"{record.value:.{decimals}f}",
                "" if stderr is None else f"{stderr:.{decimals}f}",
                level,
                record.value == best and not is_partial,
                is_partial,
                tuple(results[1:]),
            )
        )
    return cells


def _is_partial(record: MetricRecord) -> bool:
    return bool(record.aggregate == PARTIAL)


def _is_whole_share(cells: Sequence[Cell | None]) -> bool:
    """Return whether each model has a value, none of them partial, and all are from 0 to 1."""
    return all(
        cell is not None and not cell.is_partial and 0 <= cell.record.value <= 1 for cell in cells
    )


def _decimals(largest: float) -> int:
    """Return with how many decimals a column's numbers are told apart."""
    return 3 if largest < 10 else 2 if largest < 100 else 1


def _average(columns: Sequence[Column], cells: Sequence[Cell | None]) -> float | None:
    values = [
        cell.record.value
        for column, cell in zip(columns, cells, strict=True)
        if column.is_averaged and cell is not None
    ]
    return sum(values) / len(values) if len(values) > 1 else None


def language_boards(records: Iterable[MetricRecord], known: Mapping[str, Language]) -> list[Board]:
    """Return the boards, with languages for tasks, of suites with two languages or more.

    `records` are primary; those without a language, and parts of groups, are left out. Tasks are
    of one suite where their names differ in the language alone, by the spellings that `known` has;
    other shots or another metric make another board.
    """
    suites: dict[tuple[str, str], list[MetricRecord]] = defaultdict(list)
    for record in records:
        if record.language and not record.group:
            code = record.language
            suite = _without_language(record.task, known.get(code, Language(code, code, code)))
            setting = str((record.n_shot, record.metric, record.filter, record.eval_suite))
            suites[suite, setting].append(record._replace(task=code))
    return [
        board
        for (suite, _), found in sorted(suites.items())
        if len({record.task for record in found}) > 1
        for board in boards(found, suite)
    ]


def _without_language(task: str, language: Language) -> str:
    """Return the name of a task without the word that names its language."""
    words = sorted(spellings(language), key=len, reverse=True)
    spelled = "|".join(map(re.escape, words))
    rest = re.sub(rf"(?i)(?:^|[_-])(?:{spelled})(?=$|[_-])", "", task, count=1)
    return rest.strip("_-") or task
