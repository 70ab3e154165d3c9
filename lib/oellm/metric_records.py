"""Metric records: results in long form, one record per task, metric and filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oellm import schema
from oellm.manifest import Row
from oellm.models import training_step
from oellm.results import Result

Record = dict[str, Any]


def columns() -> list[str]:
    """Return the columns of a metric record, in order."""
    return list(schema.table("metric"))


def shown_columns() -> list[str]:
    """Return the columns that a table for people has."""
    return [name for name, spec in schema.table("metric").items() if spec.get("shown")]


def records(result: Result) -> Iterator[Record]:
    """Yield the metric records of one valid result (schema.json, table `metric`).

    Primary is the metric that the row's column primary_metric names, for each task its first
    filter; where the row names none, or the task lacks it, the task's first metric.
    """
    ours = result["oellm"]
    row = Row(ours["row"])
    named = row["primary_metric"]
    having = {metric["task"] for metric in ours["metrics"] if metric["metric"] == named}
    primary_seen = set()
    for metric in ours["metrics"]:
        task = metric["task"]
        is_primary = task not in primary_seen and (task not in having or metric["metric"] == named)
        if is_primary:
            primary_seen.add(task)
        record = {
            **metric,
            "eval_id": ours["eval_id"],
            "model_path": row["model_path"],
            "model_revision": row["model_revision"],
            "step": training_step(row.model.path, _revision(row)),
            "language": row["language"],
            "eval_suite": row.value("eval_suite"),
            "limit": row.value("limit"),
            "is_primary": is_primary,
            "run_dir": ours["provenance"]["run_dir"],
        }
        yield {column: record.get(column) for column in columns()}


def _revision(row: Row) -> str:
    return dict(row.model.arguments).get("revision", "")
