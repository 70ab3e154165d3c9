"""Metric records as a matrix: by default a row for each model, a column for each task.

A cell is one score. The columns that make scores comparable (task, shots, metric, filter,
framework) belong to the columns of the matrix, or to its rows if these have the tasks. So no line
mixes two kinds of scores.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from oellm.core.tables import cell_text
from oellm.errors import UsageError
from oellm.manifest.checkpoint_names import training_run
from oellm.metrics import comparability
from oellm.metrics import records as metric_records
from oellm.metrics.comparability import describe_environments as environments
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.metrics.score_groups import ScoreSetting, select_primary
from oellm.metrics.selection import RecordSelection, split_columns

# The values of a row, or of a column, in the record's columns that its axis has.
AxisKey = tuple[Any, ...]
# By column and value, the name that is shown instead of the value.
ValueNames = Mapping[tuple[str, Any], str]

# Scores that differ in one of these are not comparable.
SCORE = tuple(column for column in ScoreSetting._fields if column != "limit")
_MODEL = ("model_path", "model_revision", "step")
# The outcome of an evaluation; the other columns say which evaluation it is.
_OUTCOME = ("value", "stderr", "n_samples", "higher_is_better", "is_primary", "finished")


class PivotRequest(NamedTuple):
    """The columns of metric records that make the rows and the columns of a pivot.

    Attributes:
        with_members: whether to keep parts of groups: if the user names the column `group`.
        is_sorted: whether the user asked for an order; otherwise steps are in theirs.
    """

    rows: tuple[str, ...] = ("model_path",)
    cols: tuple[str, ...] = ("task",)
    with_members: bool = False
    is_sorted: bool = False

    @classmethod
    def parse(cls, rows: str | None, cols: str | None, selection: RecordSelection) -> PivotRequest:
        """Parse the values of --rows and --cols; raises UsageError for a bad one.

        Whether records have such columns is known later.
        """
        usual = cls()
        in_rows = _split_option("--rows", rows, usual.rows)
        in_cols = _split_option("--cols", cols, usual.cols)
        if twice := set(in_rows) & set(in_cols):
            raise UsageError(f"--rows and --cols: {min(twice)} is in both")
        named = {*in_rows, *in_cols, *(condition.column for condition in selection.conditions)}
        is_sorted = bool(selection.keys)
        return cls(in_rows, in_cols, with_members="group" in named, is_sorted=is_sorted)

    @property
    def scores_in_rows(self) -> bool:
        """Whether each row, not each column, holds scores of one kind."""
        if "task" in self.rows or "task" in self.cols:
            return "task" in self.rows
        return any(column in self.cols for column in _MODEL)


class MatrixAxis(NamedTuple):
    """The rows or the columns of a matrix.

    Attributes:
        columns: columns of metric records.
        keys: distinct values of these columns, in order of appearance.
        asked: of `columns`, those that the user asked for, and the shots of a task.
    """

    columns: tuple[str, ...]
    keys: list[AxisKey]
    asked: tuple[str, ...]

    def value(self, key: AxisKey, column: str) -> Any:
        """Return the value that a key has in a column."""
        return key[self.columns.index(column)]

    def distinguishing_columns(self) -> dict[AxisKey, list[str]]:
        """Return for each key the columns, besides `asked`, that tell it from other keys."""
        alike: dict[AxisKey, list[AxisKey]] = {}
        base = [self.columns.index(column) for column in self.asked]
        for key in self.keys:
            alike.setdefault(tuple(key[place] for place in base), []).append(key)
        return {key: self._telling(keys, base) for keys in alike.values() for key in keys}

    def _telling(self, keys: Sequence[AxisKey], base: Sequence[int]) -> list[str]:
        """Return the columns that tell some keys apart; none that follows from those before it."""
        telling: list[int] = []
        found = 1
        for place in range(len(self.columns)):
            if place not in base and found < len(keys):
                distinct = len({tuple(key[p] for p in (*telling, place)) for key in keys})
                if distinct > found:
                    telling.append(place)
                    found = distinct
        return [self.columns[place] for place in telling]

    def label(
        self, key: AxisKey, further: Sequence[str] = (), names: ValueNames = MappingProxyType({})
    ) -> str:
        """Return the name of a key for people: `hellaswag (5) acc_norm`."""
        parts: list[str] = []
        for column in (*self.asked, *further):
            value = self.value(key, column)
            name = names.get((column, value), cell_text(value))
            if column == "n_shot" and "task" in self.asked:
                # In brackets behind the task, which comes before.
                if name:
                    parts[-1] += f" ({name})"
            else:
                shots = "-shot" if column == "n_shot" and name else ""
                parts.append(f"{name}{shots}" or f"no {column}")
        return " ".join(parts)


class ScoreMatrix(NamedTuple):
    """Scores by row and column.

    Attributes:
        cells: records by the keys of row and column.
        scores_in_rows: whether each row, not each column, holds scores of one kind.
        footnotes: what is other in a score than in most of its line, or than was asked for.
        mixed: the numbers of the lines whose scores cannot be compared, as `lines` counts them.
        caption: what holds for the scores and is part of the table, one line each.
        notes: what the user should know, one line each.
    """

    rows: MatrixAxis
    cols: MatrixAxis
    cells: Mapping[tuple[AxisKey, AxisKey], MetricRecord]
    scores_in_rows: bool
    footnotes: Mapping[tuple[AxisKey, AxisKey], list[str]]
    mixed: frozenset[int]
    caption: list[str]
    notes: list[str]

    def lines(self) -> Iterator[list[tuple[AxisKey, AxisKey]]]:
        """Yield the places of each line (column or row) that holds scores of one kind."""
        return iterate_lines(self.rows.keys, self.cols.keys, self.scores_in_rows)


def iterate_lines(
    rows: Sequence[AxisKey], cols: Sequence[AxisKey], scores_in_rows: bool
) -> Iterator[list[tuple[AxisKey, AxisKey]]]:
    """Yield the places of each line (column or row) that holds scores of one kind."""
    if scores_in_rows:
        for row in rows:
            yield [(row, col) for col in cols]
    else:
        for col in cols:
            yield [(row, col) for row in rows]


def make_matrix(records: Iterable[MetricRecord], request: PivotRequest) -> ScoreMatrix:
    """Return the matrix of the primary metrics, or of all metrics if an axis has the metric.

    Rows and columns are in order of appearance. Raises UsageError if results of several limits
    would be mixed, or if two scores belong into one cell.
    """
    every_metric = "metric" in (*request.rows, *request.cols)
    records = list(records)
    met = Counter(record.metric for record in records)
    chosen = records if every_metric else select_primary(records)
    kept = [one for one in chosen if request.with_members or not one.group]
    lost = [] if request.with_members else _lost_groups(chosen, kept)
    if met and not kept:
        why = lost or [
            f"none is of a primary metric; there are {', '.join(met)}: choose with --metric"
        ]
        raise UsageError(f"no score to show in {met.total()} records: {why[0]}")
    _require_one_limit(kept, request)
    rows, cols = _axes(kept, request)
    cells: dict[tuple[AxisKey, AxisKey], MetricRecord] = {}
    for record in kept:
        row, col = _key(record, rows.columns), _key(record, cols.columns)
        if cells.setdefault((row, col), record) != record:
            raise _two_in_one(cells[row, col], record, f"{rows.label(row)}, {cols.label(col)}")
    lines = list(iterate_lines(rows.keys, cols.keys, request.scores_in_rows))
    marks = _mark(cells, lines, rows if request.scores_in_rows else cols)
    limit = comparability.describe_limits(record.limit for record in kept)
    return ScoreMatrix(
        rows=rows,
        cols=cols,
        cells=cells,
        scores_in_rows=request.scores_in_rows,
        footnotes=marks.footnotes,
        mixed=frozenset(marks.mixed),
        caption=[f"all scores: {limit}"] if limit else [],
        notes=[
            *lost,
            *_gaps(kept, len(cells), len(rows.keys) * len(cols.keys)),
            *marks.notes(),
            *_mixed_runs(kept, request),
            *(f"scores of several environments: {text}" for text in environments(kept)),
        ],
    )


class _Marks(NamedTuple):
    """What cannot be compared in a matrix.

    Attributes:
        footnotes: by place, what is other in a score.
        mixed: the numbers of the lines that are mixed.
        summaries: the labels of the mixed lines by what is mixed in them.
    """

    footnotes: dict[tuple[AxisKey, AxisKey], list[str]]
    mixed: list[int]
    summaries: dict[str, list[str]]

    def notes(self) -> Iterator[str]:
        """Yield a line for each kind of mixture."""
        for summary, labels in self.summaries.items():
            yield f"not comparable, {summary}: {', '.join(labels)}"


def _mark(
    cells: Mapping[tuple[AxisKey, AxisKey], MetricRecord],
    lines: Iterable[list[tuple[AxisKey, AxisKey]]],
    axis: MatrixAxis,
) -> _Marks:
    marks = _Marks({}, [], {})
    for number, (key, line) in enumerate(zip(axis.keys, lines, strict=True)):
        places = [place for place in line if place in cells]
        mixture = comparability.find_mixture([cells[place] for place in places])
        if mixture.summary:
            marks.mixed.append(number)
            marks.summaries.setdefault(mixture.summary, []).append(axis.label(key))
        for place_number, place in enumerate(places):
            remark = cells[place].remark
            found = [*mixture.notes.get(place_number, ()), *([remark] if remark else [])]
            if found:
                marks.footnotes[place] = found
    return marks


def _split_option(option: str, value: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    if value is None:
        return usual
    if columns := split_columns(value):
        return tuple(columns)
    raise UsageError(f"{option}: expected columns of metric records, got {value!r}")


def _axes(records: Sequence[MetricRecord], request: PivotRequest) -> tuple[MatrixAxis, MatrixAxis]:
    """Return rows and columns; one of them also has the columns of SCORE."""
    axes = []
    for asked, has_score in (
        (request.rows, request.scores_in_rows),
        (request.cols, not request.scores_in_rows),
    ):
        others = (*request.rows, *request.cols)
        joined = tuple(c for c in SCORE if c not in others) if has_score else ()
        columns = (*asked, *joined)
        keys = list(dict.fromkeys(_key(record, columns) for record in records))
        if asked[0] == "step" and not request.is_sorted:
            keys.sort(key=lambda key: (key[0] is None, key[0]))
        axes.append(MatrixAxis(columns, keys, asked=_with_shots(asked, columns)))
    return axes[0], axes[1]


def _with_shots(asked: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that were asked for, with the shots behind the task."""
    shown = [column for column in asked if column != "n_shot" or "task" not in asked]
    if "task" in shown and "n_shot" in columns:
        shown.insert(shown.index("task") + 1, "n_shot")
    return tuple(shown)


def _key(record: MetricRecord, columns: Sequence[str]) -> AxisKey:
    return tuple(map(record.value_in, columns))


def _require_one_limit(records: Sequence[MetricRecord], request: PivotRequest) -> None:
    limits = Counter(record.limit for record in records)
    if len(limits) > 1 and "limit" not in (*request.rows, *request.cols):
        counts = ", ".join(
            f"{cell_text(limit) or 'none'} ({number})" for limit, number in limits.items()
        )
        choices = " or ".join(f"--filter limit={cell_text(limit)}" for limit in limits)
        raise UsageError(
            f"expected scores of one limit, got several; limits and their numbers of scores: "
            f"{counts}; "
            f"choose with {choices}, or add limit to --rows or --cols"
        )


def _two_in_one(one: MetricRecord, other: MetricRecord, cell: str) -> UsageError:
    columns = [*metric_records.column_names(), *one.extra, *other.extra]
    differing = [
        column
        for column in dict.fromkeys(columns)
        if one.value_in(column) != other.value_in(column)
    ]
    # People understand other columns better than eval_id, so that it comes last.
    telling = [column for column in differing if column not in (*_OUTCOME, "eval_id")]
    choice = (telling or differing)[0]
    return UsageError(
        f"two scores for one cell ({cell}); they differ in {', '.join(differing)}: choose "
        f"with --filter '{choice}={glob.escape(cell_text(one.value_in(choice)))}' for example, "
        f"or add {choice} to --rows or --cols"
    )


def _lost_groups(chosen: Sequence[MetricRecord], kept: Sequence[MetricRecord]) -> list[str]:
    """Return a note on the groups that have no score of their own."""
    tasks = {record.task for record in kept}
    lost = dict.fromkeys(r.group for r in chosen if r.group and r.group not in tasks)
    if not lost:
        return []
    named = ", ".join(lost)
    return [f"left out because the group has no score: {named}; --filter 'group=*' shows its tasks"]


def _mixed_runs(kept: Sequence[MetricRecord], request: PivotRequest) -> Iterator[str]:
    """Yield a note for what stands side by side as one: training runs, or states of a model."""
    axes = (*request.rows, *request.cols)
    if "model_digest" not in axes:
        for text in comparability.describe_states(kept):
            yield f"scores of several models under one name: {text} between them"
    if "step" in axes and "model_path" not in axes:
        runs = dict.fromkeys(training_run(record.model_path, record.step) for record in kept)
        if len(runs) > 1:
            yield f"steps of {len(runs)} training runs: {', '.join(runs)}"


def _gaps(kept: Sequence[MetricRecord], full: int, cells: int) -> Iterator[str]:
    """Yield notes on what is missing."""
    if not kept:
        yield "there is no record"
    if full < cells:
        yield f"empty cells: {cells - full} of {cells}"
    if partial := dict.fromkeys(one.task for one in kept if one.aggregate == PARTIAL):
        yield f"scores from some tasks of the group only: {', '.join(partial)}"
