"""The scores of one row, in the same form for our results and for those of other tools."""

from __future__ import annotations

from typing import Any, NamedTuple

from oellm.manifest.cells import read_cell
from oellm.manifest.rows import Row
from oellm.runs.result_store import Result

# What every metric has, besides its value.
_TEXTS = ("task", "metric", "filter")
# Cells whose values records have.
_CELLS = ("model_path", "eval_suite", "limit")


class ScoredRow(NamedTuple):
    """A row with its scores, wherever these come from."""

    # The manifest row; of a native result the cells that it tells: model_path with arguments,
    # task_path (the task or group that was asked for), n_shot, eval_suite, limit, gen_kwargs,
    # apply_chat_template, model_revision, primary_metric. Only ours has an eval_id.
    row: Row
    # Normalised: task, group, n_shot, metric, filter, value, stderr, higher_is_better, n_samples,
    # aggregate (schema.json, table `metric`).
    metrics: list[dict[str, Any]]
    # When the evaluation ended, in UTC as ISO 8601; empty where nothing tells.
    finished: str
    # The run directory, or the file of a result that is in none.
    run_dir: str
    # What a user should know of it: metrics that are left out, and why.
    remarks: tuple[str, ...] = ()


def of_result(result: Result, run_dir: str) -> ScoredRow:
    """Return what a valid result of ours says.

    Raises ValueError where what does not count for its validity is not as it should be.
    """
    ours = result["oellm"]
    cells, timing = ours.get("row"), ours.get("timing")
    if not isinstance(cells, dict) or set(map(type, cells.values())) - {str}:
        raise ValueError("its row is no manifest row")
    cells["eval_id"] = ours["eval_id"]
    try:
        for name in _CELLS:
            read_cell(name, cells.get(name, ""))
    except ValueError as error:
        raise ValueError(f"its row: {name}: {error}") from None
    for metric in ours["metrics"]:
        if not all(type(metric.get(name)) is str for name in _TEXTS):
            raise ValueError(f"a metric lacks one of {', '.join(_TEXTS)}: {metric}")
    finished = timing.get("finished") if isinstance(timing, dict) else ""
    return ScoredRow(Row(cells), ours["metrics"], str(finished or ""), run_dir)
