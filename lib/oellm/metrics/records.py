"""Metric records: results in long form, one record per task, metric and filter."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from oellm.core import tables
from oellm.manifest.cells import read_cell
from oellm.manifest.checkpoint_names import training_step
from oellm.manifest.model_spec import ModelSpec
from oellm.metrics.columns import extra_names
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.runs.environment import TaskState

# Values of the column `aggregate`.
REPORTED, DERIVED, PARTIAL = "reported", "derived", "partial"

# The columns that tell one evaluation of a task from another, in records that may lack the eval_id.
_EVALUATION = ("eval_id", "model_path", "task", "n_shot", "eval_suite", "limit", "run_dir")
_evaluation_of = attrgetter(*_EVALUATION)


# The column `chat_template` of scores without one.
NO_TEMPLATE = "none"

_UNKNOWN = TaskState()
# Digits of a task's hash that records show.
_HASH_DIGITS = 16
# A larger number is no training step, and does not fit into 64 bits.
_MOST_STEPS = 10**15


_NO_EXTRA: Mapping[str, str] = {}


class MetricRecord(NamedTuple):
    """One score, with all that says what it is a score of.

    The fields are the columns of schema.json's table `metric`, in its order; the schema describes
    them. Texts are empty, and other values None, if they are unknown. `value` is always known in
    records that were made of results or read.
    """

    eval_id: str = ""
    model_path: str = ""
    model_revision: str = ""
    step: int | None = None
    task: str = ""
    group: str = ""
    language: str = ""
    n_shot: int | None = None
    eval_suite: str = ""
    metric: str = ""
    filter: str = ""
    value: float = math.nan
    stderr: float | None = None
    higher_is_better: bool | None = None
    n_samples: int | None = None
    limit: float | None = None
    is_primary: bool | None = None
    aggregate: str = ""
    finished: str = ""
    run_dir: str = ""
    task_version: str = ""
    task_hash: str = ""
    dataset_revision: str = ""
    model_digest: str = ""
    framework_version: str = ""
    backend: str = ""
    dtype: str = ""
    chat_template: str = ""
    hardware: str = ""
    remark: str = ""
    # No column, but the user's own columns by name.
    extra: Mapping[str, str] = _NO_EXTRA

    def value_in(self, column: str) -> Any:
        """Return the value in a column; empty in a user's own column that the record lacks."""
        return getattr(self, column) if column in _OWN else self.extra.get(column, "")


_COLUMNS = MetricRecord._fields[:-1]
_OWN = frozenset(_COLUMNS)


def column_names() -> list[str]:
    """Return the columns that every metric record has, in order."""
    return list(_COLUMNS)


def select_columns(
    records: Iterable[MetricRecord], columns: Sequence[str]
) -> Iterable[tuple[Any, ...]]:
    """Return the values of each record in some columns."""
    if tuple(columns) == _COLUMNS:
        return (record[:-1] for record in records)
    if _OWN.issuperset(columns):
        return tables.select_fields(records, columns)
    return (tuple(map(record.value_in, columns)) for record in records)


def make_metric_records(scored: ScoredRow, primary: PrimaryMetrics) -> Iterator[MetricRecord]:
    """Yield the metric records of a row with scores."""
    cells = scored.row.cells
    model_path = canonical_model(cells["model_path"])
    eval_suite: str = read_cell("eval_suite", cells.get("eval_suite", "")).value
    asked = _Asked.of(scored)
    limit = asked.limit
    told = _read_step(cells.get("step", ""))
    step = find_step(model_path) if told is None else told
    chosen = primary.primary_places(scored)
    contents, environment, tasks = scored.contents, scored.environment, scored.tasks
    extra = {shown: cells[name] for name, shown in extra_names(cells).items()}
    # In the order of the fields: names would cost a fifth of the time of collecting a result.
    first = cells.get("eval_id", ""), model_path, cells.get("model_revision", ""), step
    language, at = cells.get("language", ""), (scored.finished, scored.run_dir)
    known = (
        contents.data or cells.get("dataset_revision", ""),
        contents.model or cells.get("model_digest", ""),
        environment.framework_version,
        environment.backend or cells.get("backend", ""),
        environment.dtype,
        contents.chat_template or _chat_template(cells),
        environment.hardware,
    )
    for place, score in enumerate(scored.scores):
        task, group, n_shot, metric, name, value, stderr, higher, n_samples, aggregate = score
        version, task_hash, remark = tasks.get(task, _UNKNOWN)
        if remark or limit is not None or n_shot != asked.n_shot or asked.lacking_metric:
            remark = asked.remark(score, remark)
        scores = (metric, name, value, stderr, higher, n_samples, limit, place in chosen, aggregate)
        rest = (version, task_hash[:_HASH_DIGITS], *known, remark, extra)
        yield MetricRecord._make(
            (*first, task, group, language, n_shot, eval_suite, *scores, *at, *rest)
        )


class _Asked(NamedTuple):
    """What a row asks for, and a score may not have.

    Attributes:
        lacking_metric: The primary metric that the row names, if it has no such score.
    """

    n_shot: int | None
    limit: float | None
    lacking_metric: str

    @classmethod
    def of(cls, scored: ScoredRow) -> _Asked:
        cells = scored.row.cells
        n_shot, limit = (read_cell(name, cells.get(name, "")).value for name in ("n_shot", "limit"))
        metric = cells.get("primary_metric", "")
        has_it = not metric or any(score.metric == metric for score in scored.scores)
        return cls(n_shot, limit, lacking_metric="" if has_it else metric)

    def remark(self, score: MetricScore, known: str) -> str:
        """Return what is not as asked in a score, after what is known of its task."""
        n_shot, n_samples, limit = score.n_shot, score.n_samples, self.limit
        is_short = limit is not None and n_samples is not None and 1 <= n_samples < limit
        is_other = n_shot != self.n_shot and n_shot is not None and self.n_shot is not None
        if not (known or is_short or is_other or self.lacking_metric):
            return ""
        parts = [known] if known else []
        if self.lacking_metric:
            parts.append(f"primary metric {self.lacking_metric} was asked for, and is not there")
        if is_other:
            parts.append(f"{self.n_shot} shots were asked for, {n_shot} used")
        if is_short:
            parts.append(f"{limit} documents were asked for, {n_samples} scored")
        return "; ".join(parts)


def find_remarks(scored: ScoredRow) -> list[str]:
    """Return what is not as asked in the scores of a row, each once, with the task."""
    asked = _Asked.of(scored)
    found = (
        (score.task, asked.remark(score, scored.tasks.get(score.task, _UNKNOWN).remark))
        for score in scored.scores
    )
    return list(dict.fromkeys(f"{task}: {remark}" for task, remark in found if remark))


def _read_step(text: str) -> int | None:
    """Return the step in the column of a row; None if it is empty or damaged."""
    try:
        step: int | None = read_cell("step", text).value
    except ValueError:
        return None
    return step if step is None or step <= _MOST_STEPS else None


def _chat_template(cells: Mapping[str, str]) -> str:
    """Return the column chat_template of a row whose result does not tell the template's digest."""
    asked = cells.get("apply_chat_template", "")
    if not asked and not cells.get("eval_id"):
        # A result of another tool need not say whether it applied one.
        return ""
    return "used" if asked and read_cell("apply_chat_template", asked).value else NO_TEMPLATE


class PrimaryMetrics:
    """Knows which metric stands for each task.

    A user may ask for one (`asked`, as METRIC or METRIC,FILTER); a task without it then has no
    primary metric. Otherwise the row's column primary_metric names it, or the suites do (`of_tasks`
    by framework and task), and its first filter counts. If neither names one, it is the task's
    first metric.
    """

    def __init__(self, of_tasks: Mapping[str, Mapping[str, str]], asked: str = "") -> None:
        self._of_tasks = of_tasks
        self._metric, _, self._filter = asked.partition(",")

    def primary_places(self, scored: ScoredRow) -> set[int]:
        """Return the places of the primary metrics in the row's list, at most one for each task."""
        row = scored.row
        eval_suite: str = read_cell("eval_suite", row["eval_suite"]).value
        of_tasks = self._of_tasks.get(eval_suite, {})
        requested = of_tasks.get(row["task_path"])
        first: dict[str, int] = {}
        named: dict[str, int] = {}
        for place, score in enumerate(scored.scores):
            task = score.task
            first.setdefault(task, place)
            name = row["primary_metric"] or of_tasks.get(task) or requested
            if task not in named and self._is_wanted(score.metric, score.filter, name):
                named[task] = place
        return set((named if self._metric else {**first, **named}).values())

    def choose_again(self, records: Iterable[MetricRecord]) -> Iterator[MetricRecord]:
        """Yield records that were made before, with the metric that is asked for as primary.

        If none is asked for, records keep what they say; of those that say nothing, which other
        tools may have made, each evaluation gets one primary metric.
        """
        if not self._metric:
            yield from self._choose_undecided(records)
            return
        seen = set()
        for record in records:
            evaluation = _evaluation_of(record)
            is_primary = evaluation not in seen and self._is_wanted(record.metric, record.filter)
            if is_primary:
                seen.add(evaluation)
            yield record._replace(is_primary=is_primary)

    def _choose_undecided(self, records: Iterable[MetricRecord]) -> Iterator[MetricRecord]:
        seen = set()
        for is_undecided, some in itertools.groupby(records, lambda r: r.is_primary is None):
            if not is_undecided:
                yield from some
                continue
            for evaluation, of_one in itertools.groupby(some, _evaluation_of):
                scores = list(of_one)
                name = self._of_tasks.get(scores[0].eval_suite, {}).get(scores[0].task)
                named = (place for place, score in enumerate(scores) if score.metric == name)
                chosen = next(named, 0) if evaluation not in seen else None
                seen.add(evaluation)
                for place, score in enumerate(scores):
                    yield score._replace(is_primary=place == chosen)

    def _is_wanted(self, metric: str, filter_name: str, named: str | None = None) -> bool:
        if self._metric:
            return metric == self._metric and self._filter in ("", filter_name)
        return metric == named


@functools.lru_cache(4096)
def canonical_model(cell: str) -> str:
    """Return a model's cell with its arguments in alphabetical order, each in its one spelling.

    So a model has one name, however manifests and results of other tools spell it. Raises
    ValueError if it is no cell.
    """
    if "," not in cell:
        return cell
    model = ModelSpec.parse(cell)
    return str(ModelSpec(model.path, tuple(sorted(model.arguments))))


@functools.lru_cache(4096)
def find_step(model_path: str) -> int | None:
    """Return the training step that a model's cell names; raises ValueError if it is no cell."""
    model = ModelSpec.parse(model_path)
    return training_step(model.path, dict(model.arguments).get("revision", ""))
