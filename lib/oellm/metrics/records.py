"""Metric records: results in long form, one record per task, metric and filter."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from oellm.core import schema
from oellm.manifest.cells import read_cell
from oellm.manifest.checkpoint_names import training_step
from oellm.manifest.model_spec import ModelSpec
from oellm.metrics.scored_rows import ScoredRow

Record = dict[str, Any]

# Types of columns that hold no text.
_VALUES = ("integer", "number", "boolean")
# Cells that records have as they are.
_TEXTS = ("eval_id", "model_path", "model_revision", "language")
# What is one evaluation of a task, in records that may lack the eval_id.
_EVALUATION = ("eval_id", "model_path", "task", "n_shot", "eval_suite", "limit", "run_dir")

# Values of the column `aggregate`.
REPORTED, DERIVED, PARTIAL = "reported", "derived", "partial"


def empty() -> Record:
    """Return a record without values: None where there would be a number or a truth, else ''."""
    return dict(_empty())


def columns() -> list[str]:
    """Return the columns of a metric record, in order."""
    return list(schema.table("metric"))


def shown_columns() -> list[str]:
    """Return the columns that a table for people has."""
    return [name for name, spec in schema.table("metric").items() if spec.get("shown")]


def records(scored: ScoredRow, primary: PrimaryMetrics) -> Iterator[Record]:
    """Yield the metric records of a row with scores (schema.json, table `metric`)."""
    cells = scored.row.cells
    of_row = {
        **_empty(),
        **{name: cells.get(name, "") for name in _TEXTS},
        "step": _step(cells["model_path"]),
        "eval_suite": read_cell("eval_suite", cells.get("eval_suite", "")).value,
        "limit": read_cell("limit", cells.get("limit", "")).value,
        "finished": scored.finished,
        "run_dir": scored.run_dir,
    }
    chosen = primary.among(scored)
    for place, metric in enumerate(scored.metrics):
        yield {**of_row, **metric, "is_primary": place in chosen}


class PrimaryMetrics:
    """Which metric stands for each task.

    `asked`, `METRIC` or `METRIC,FILTER`, is what a user wants instead: a task that lacks it has
    none. Else it is the one that the row's column primary_metric names, or the suites' one for the
    task (`of_tasks`), by its first filter; where neither is there, the task's first.
    """

    def __init__(self, of_tasks: Mapping[str, str], asked: str = "") -> None:
        self._of_tasks = of_tasks
        self._metric, _, self._filter = asked.partition(",")

    def among(self, scored: ScoredRow) -> set[int]:
        """Return the places of the primary metrics in the list, at most one for each task."""
        row = scored.row
        requested = self._of_tasks.get(row["task_path"])
        first: dict[str, int] = {}
        meant: dict[str, int] = {}
        for place, metric in enumerate(scored.metrics):
            task = metric["task"]
            first.setdefault(task, place)
            named = row["primary_metric"] or self._of_tasks.get(task) or requested
            if task not in meant and self._is_meant(metric, named):
                meant[task] = place
        return set((meant if self._metric else {**first, **meant}).values())

    def rechosen(self, found: Iterable[Record]) -> Iterator[Record]:
        """Yield records that were made before, with the metric that is asked for as primary."""
        seen = set()
        for record in found:
            evaluation = tuple(record[column] for column in _EVALUATION)
            is_meant = evaluation not in seen and self._is_meant(record, None)
            if is_meant:
                seen.add(evaluation)
            yield {**record, "is_primary": is_meant} if self._metric else record

    def _is_meant(self, metric: Mapping[str, Any], named: str | None) -> bool:
        if self._metric:
            return metric["metric"] == self._metric and self._filter in ("", metric["filter"])
        return bool(metric["metric"] == named)


@functools.cache
def _empty() -> Record:
    types = {name: spec["type"] for name, spec in schema.table("metric").items()}
    return {name: None if kind in _VALUES else "" for name, kind in types.items()}


@functools.lru_cache(4096)
def _step(model_path: str) -> int | None:
    model = ModelSpec.parse(model_path)
    return training_step(model.path, dict(model.arguments).get("revision", ""))


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that a metric or standard error can have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
