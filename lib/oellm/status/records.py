"""The state of a run as records (schema.json, tables `status`, `shard_status` and `totals`)."""

from __future__ import annotations

from typing import Any

from oellm.runs.run_directory import Run
from oellm.status import table
from oellm.status.statuses import EvalState, RowStatus, ShardStatus, Totals

StatusRecord = dict[str, Any]


def row_record(run: Run, status: RowStatus) -> StatusRecord:
    """Return the record of a row."""
    cells = {name: status.row[name] for name in ("eval_id", "model_path", "task_path", "n_shot")}
    at_work = status.at_work
    return {
        "run_dir": str(run.path),
        "shard": int(status.row["shard"]),
        **cells,
        "state": status.state.value,
        "reason": status.reason,
        "attempts": status.attempts,
        "log": status.log,
        "requests_done": at_work.requests_done if at_work is not None else None,
        "requests_total": at_work.requests_total if at_work is not None else None,
        "job": status.shard.job,
        "node": status.shard.node,
    }


def shard_record(run: Run, shard: ShardStatus) -> StatusRecord:
    """Return the record of a shard."""
    row = table.current_row(shard)
    is_scored = row is not None and row.at_work is not None and row.at_work.requests_total
    return {
        "run_dir": str(run.path),
        "shard": shard.index,
        "state": shard.state.value,
        "rows": len(shard.rows),
        **{state.value: shard.count(state) for state in EvalState},
        "current": table.row_title(row.row) if row is not None else "",
        "progress": round(row.share_answered, 4) if row is not None and is_scored else None,
        "rows_per_h": _rounded(shard.rows_per_h),
        "left_s": _rounded(shard.left_s),
        "estimate_s": shard.estimate_s,
        "measured_s": _rounded(shard.measured_s),
        "gpu_hours": round(shard.gpu_s / 3600, 4),
        "scoring_share": round(shard.scoring_s / shard.measured_s, 4) if shard.measured_s else None,
        "job": shard.activity.job,
        "node": shard.activity.node,
        "reason": shard.activity.reason if shard.state is not EvalState.DONE else "",
    }


def run_record(run: Run, total: Totals) -> StatusRecord:
    """Return the record of a run."""
    values = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in total._asdict().items()
    }
    return {
        "run_dir": str(run.path),
        "created": run.created,
        **values,
        "state": total.state.value,
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 1) if value is not None else None
