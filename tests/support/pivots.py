"""Pivots of records that tests make."""

from __future__ import annotations

from typing import Any

from oellm.collect.pivots import pivot, pivot_table
from oellm.collect.pivots.pivot import PivotRequest
from oellm.collect.pivots.pivot_table import Sheet, SheetStyle
from oellm.metrics.records import MetricRecord
from oellm.metrics.selection import RecordSelection

PLAIN, SHOWN = SheetStyle(for_people=False), SheetStyle(for_people=True)


def sheet(
    found: list[MetricRecord],
    rows: str | None = None,
    cols: str | None = None,
    style: SheetStyle = PLAIN,
) -> Sheet:
    request = PivotRequest.parse(rows, cols, RecordSelection.parse({}, "", primary_only=False))
    return pivot_table.make_sheet(pivot.make_matrix(iter(found), request), style)


def record(model: str, task: str, value: float, **others: Any) -> MetricRecord:
    usual: dict[str, Any] = {
        "group": "",
        "n_shot": 0,
        "metric": "acc",
        "filter": "none",
        "eval_suite": "lm_eval",
    }
    usual |= {"model_path": model, "task": task, "value": value, "is_primary": True}
    usual |= {"higher_is_better": True, "eval_id": f"{model} {task}"}
    return MetricRecord(**{**usual, **others})


def grid(found: Sheet) -> list[list[Any]]:
    return [list(found.types), *map(list, found.rows)]


def objects(found: Sheet) -> list[dict[str, Any]]:
    return [dict(zip(found.types, row, strict=True)) for row in found.rows]
