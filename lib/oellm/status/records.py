"""Where a run stands as records (schema.json, tables `status`, `shard_status` and `totals`)."""

from __future__ import annotations

from typing import Any

from oellm.runs.run_directory import Run
from oellm.status import table
from oellm.status.run_status import (
    DONE,
    FAILED,
    LOST,
    PENDING,
    RUNNING,
    RowStatus,
    ShardStatus,
    Totals,
)

Record = dict[str, Any]


def of_row(run: Run, row: RowStatus) -> Record:
    """Return the record of a row."""
    cells = {name: row.row[name] for name in ("eval_id", "model_path", "task_path", "n_shot")}
    return {
        "run_dir": str(run.path),
        "shard": int(row.row["shard"]),
        **cells,
        "state": row.state,
        "reason": row.reason,
        "attempts": row.attempts,
        "log": row.log,
        "requests_done": row.work.get("requests_done"),
        "requests_total": row.work.get("requests_total"),
        "job": row.phase.job,
        "node": row.phase.node,
    }


def of_shard(run: Run, shard: ShardStatus) -> Record:
    """Return the record of a shard."""
    row = table.current(shard)
    total = row.work["requests_total"] if row is not None else 0
    states = (DONE, RUNNING, PENDING, FAILED, LOST)
    return {
        "run_dir": str(run.path),
        "shard": shard.shard,
        "state": shard.state,
        "rows": len(shard.rows),
        **{state: shard.number(state) for state in states},
        "current": table.title(row.row) if row is not None else "",
        "progress": round(row.work["requests_done"] / total, 4) if row and total else None,
        "rows_per_h": _rounded(shard.rows_per_h),
        "left_s": _rounded(shard.left_s),
        "estimate_s": shard.estimate_s,
        "measured_s": _rounded(shard.measured_s),
        "gpu_hours": round(shard.gpu_s / 3600, 4),
        "scoring_share": round(shard.scoring_s / shard.measured_s, 4) if shard.measured_s else None,
        "job": shard.phase.job,
        "node": shard.phase.node,
        "reason": shard.phase.reason if shard.state != DONE else "",
    }


def of_run(run: Run, total: Totals) -> Record:
    """Return the record of a run."""
    numbers = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in total._asdict().items()
    }
    return {"run_dir": str(run.path), "created": run.record["created"], **numbers}


def _rounded(value: float | None) -> float | None:
    return round(value, 1) if value is not None else None
