"""Metric records: results in long form, one record per task, metric and filter."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from oellm import schema
from oellm.models import ModelSpec, training_step
from oellm.scored_rows import ScoredRow

Record = dict[str, Any]

# Values of the column `aggregate`.
REPORTED, DERIVED, PARTIAL = "reported", "derived", "partial"


def columns() -> list[str]:
    """Return the columns of a metric record, in order."""
    return list(schema.table("metric"))


def shown_columns() -> list[str]:
    """Return the columns that a table for people has."""
    return [name for name, spec in schema.table("metric").items() if spec.get("shown")]


def records(scored: ScoredRow, primary: PrimaryMetrics) -> Iterator[Record]:
    """Yield the metric records of a row with scores (schema.json, table `metric`)."""
    row = scored.row
    of_row = {
        "eval_id": row["eval_id"],
        "model_path": row["model_path"],
        "model_revision": row["model_revision"],
        "step": _step(row["model_path"]),
        "language": row["language"],
        "eval_suite": row.value("eval_suite"),
        "limit": row.value("limit"),
        "finished": scored.finished,
        "run_dir": scored.run_dir,
    }
    chosen = primary.among(scored)
    for place, metric in enumerate(scored.metrics):
        record = {**metric, **of_row, "is_primary": place in chosen}
        yield {column: record.get(column) for column in columns()}


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
        by_task: dict[str, list[int]] = {}
        for place, metric in enumerate(scored.metrics):
            by_task.setdefault(metric["task"], []).append(place)
        found = set()
        for task, places in by_task.items():
            named = [p for p in places if self._is_meant(scored, task, scored.metrics[p])]
            if named or not self._metric:
                found.add((named or places)[0])
        return found

    def _is_meant(self, scored: ScoredRow, task: str, metric: Mapping[str, Any]) -> bool:
        if self._metric:
            return metric["metric"] == self._metric and self._filter in ("", metric["filter"])
        row = scored.row
        named = row["primary_metric"] or self._of_tasks.get(task)
        return bool(metric["metric"] == (named or self._of_tasks.get(row["task_path"])))


@functools.lru_cache(4096)
def _step(model_path: str) -> int | None:
    model = ModelSpec.parse(model_path)
    return training_step(model.path, dict(model.arguments).get("revision", ""))
