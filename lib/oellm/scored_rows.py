"""What a result says of one row: the same for our results and for those of other tools."""

from __future__ import annotations

from typing import Any, NamedTuple

from oellm.manifest import Row
from oellm.results import Result


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


def of_result(result: Result, run_dir: str) -> ScoredRow:
    """Return what a valid result of ours says."""
    ours = result["oellm"]
    row = Row({**ours["row"], "eval_id": ours["eval_id"]})
    return ScoredRow(row, ours["metrics"], ours.get("timing", {}).get("finished", ""), run_dir)
