"""Tables of scores that other tools write and read, in terms of metric records.

    oellm-eval    model_name,task,n_shot,performance,metric_name
    dashboard     checkpoint,task,n_shot,harness,backend,metric,filter,value

Both are CSV and may have further columns. In the first, a table has one metric of each task, and
`metric_name` may have the filter, `acc,none`. The second is what the dashboard of OpenEuroLLM
(quickdash) takes.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from oellm.manifest import foreign_names
from oellm.manifest.cells import read_cell
from oellm.metrics.records import REPORTED, MetricRecord, find_step

# The cells of a record as texts, by column.
Cells = Mapping[str, str]

DASHBOARD = ("checkpoint", "task", "n_shot", "harness", "backend", "metric", "filter", "value")
_COLLECTED = ("model_name", "task", "n_shot", "performance")


class Harness(NamedTuple):
    """How the dashboard knows a framework.

    Attributes:
        name: its name there.
        has_filters: whether its scores have filters; those of others have an empty one.
    """

    name: str
    has_filters: bool


def find_table(header: Sequence[str]) -> Callable[[Cells], Cells] | None:
    """Return what makes a metric record of a row with these columns; None for another table."""
    if set(DASHBOARD) <= set(header):
        return _of_dashboard
    return _of_collected if set(_COLLECTED) <= set(header) else None


def _of_collected(row: Cells) -> Cells:
    # Older tables do not tell the metric.
    metric, _, filter_name = row.get("metric_name", "performance").partition(",")
    return {
        **_model(row["model_name"]),
        "task": row["task"],
        "n_shot": _shots(row["n_shot"]),
        "metric": metric,
        "filter": filter_name,
        "value": row["performance"],
        "is_primary": "true",
    }


def _of_dashboard(row: Cells) -> Cells:
    return {
        **_model(row["checkpoint"]),
        "task": row["task"],
        "n_shot": _shots(row["n_shot"]),
        "eval_suite": _framework(row["harness"]),
        "backend": row["backend"],
        "metric": row["metric"],
        "filter": row["filter"],
        "value": row["value"],
        "stderr": row.get("stderr", ""),
        "n_samples": row.get("n_samples", ""),
        "aggregate": REPORTED if row.get("is_group", "").lower() in ("true", "1") else "",
        "finished": _finished(row.get("result_time", "")),
        "run_dir": row.get("results_file", ""),
    }


def dashboard_rows(
    records: Iterable[MetricRecord], harness: Callable[[str], Harness]
) -> Iterator[tuple[str, ...]]:
    """Yield rows of the dashboard's table; `harness` tells how it knows a framework."""
    for record in records:
        name, has_filters = harness(record.eval_suite)
        yield (
            record.model_path,
            record.task,
            "" if record.n_shot is None else str(record.n_shot),
            name,
            record.backend,
            record.metric,
            "" if record.filter == "none" and not has_filters else record.filter,
            repr(record.value),
        )


def _shots(text: str) -> str:
    return "" if text == "unknown" else text


def _model(name: str) -> dict[str, str]:
    """Return the columns that name a model."""
    try:
        cells = foreign_names.named_model(name)
        step = find_step(cells["model_path"])
    except ValueError:
        # A name of another tool need not be a model's cell.
        return {"model_path": name}
    return {**cells, "step": "" if step is None else str(step)}


def _framework(text: str) -> str:
    try:
        return str(read_cell("eval_suite", text).value) if text else ""
    except ValueError:
        return text


def _finished(text: str) -> str:
    """Return a time in seconds since 1970 in ISO 8601; another text stays."""
    try:
        moment = datetime.datetime.fromtimestamp(float(text), datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return text
    return moment.isoformat(timespec="seconds")
