"""The state of a run as records: of its rows, of its shards, and of the whole run.

Each record has the columns of a table of schema.json, in its order; the schema describes them.
Values that are not known are None, and texts are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from oellm.runs.run_directory import Run
from oellm.status import table
from oellm.status.row_titles import RowTitles
from oellm.status.statuses import EvalState, RowStatus, RunStatus, ShardStatus, Totals


class RowRecord(NamedTuple):
    """The state of a row (schema.json, table `status`)."""

    run_dir: str
    shard: int
    eval_id: str
    model_path: str
    task_path: str
    n_shot: int | None
    stage: str
    state: EvalState
    reason: str
    attempts: int
    log: str
    requests_done: int | None
    requests_total: int | None
    job: str
    node: str

    def to_json(self) -> dict[str, Any]:
        """Return the columns with their values."""
        return self._asdict()


class ShardRecord(NamedTuple):
    """The state of a shard (schema.json, table `shard_status`)."""

    run_dir: str
    shard: int
    stage: str
    state: EvalState
    rows: int
    # How many of its rows are in each state; a column for each.
    counts: Mapping[EvalState, int]
    current: str
    progress: float | None
    rows_per_h: float | None
    left_s: float | None
    estimate_s: float
    measured_s: float | None
    gpu_hours: float
    scoring_share: float | None
    job: str
    node: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the columns with their values."""
        content: dict[str, Any] = {}
        for name, value in self._asdict().items():
            if name == "counts":
                content |= {state.column: count for state, count in self.counts.items()}
            else:
                content[name] = value
        return content


class RunRecord(NamedTuple):
    """The state of a run (schema.json, table `totals`, whose last columns are those of Totals)."""

    run_dir: str
    name: str
    user: str
    created: str
    models: int
    first_model: str
    tasks: int
    first_task: str
    excluded_nodes: str
    totals: Totals

    def to_json(self) -> dict[str, Any]:
        """Return the columns with their values."""
        content = self._asdict()
        del content["totals"]
        return {**content, **self.totals._asdict()}


def describe_row(run: Run, status: RowStatus) -> RowRecord:
    """Return the record of a row."""
    at_work = status.at_work
    return RowRecord(
        run_dir=str(run.path),
        shard=status.shard_index,
        eval_id=status.row["eval_id"],
        model_path=status.row["model_path"],
        task_path=status.row["task_path"],
        n_shot=status.row.value("n_shot"),
        stage=status.stage,
        state=status.state,
        reason=status.text,
        attempts=status.attempts,
        log=status.log,
        requests_done=at_work.requests_done if at_work is not None else None,
        requests_total=at_work.requests_total if at_work is not None else None,
        job=status.shard.job,
        node=status.shard.node,
    )


def describe_shard(run: Run, shard: ShardStatus, titles: RowTitles) -> ShardRecord:
    """Return the record of a shard; `titles` are those of the run's rows."""
    row = table.current_row(shard)
    is_scored = row is not None and row.at_work is not None and row.at_work.requests_total
    return ShardRecord(
        run_dir=str(run.path),
        shard=shard.index,
        stage=shard.stage,
        state=shard.state,
        rows=len(shard.rows),
        counts={state: shard.count(state) for state in EvalState},
        current=titles[row.row["eval_id"]] if row is not None else "",
        progress=round(row.share_answered, 4) if row is not None and is_scored else None,
        rows_per_h=_rounded(shard.rows_per_h),
        left_s=_rounded(shard.left_s),
        estimate_s=shard.estimate_s,
        measured_s=_rounded(shard.measured_s),
        gpu_hours=round(shard.gpu_s / 3600, 4),
        scoring_share=round(shard.scoring_s / shard.measured_s, 4) if shard.measured_s else None,
        job=shard.activity.job,
        node=shard.activity.node,
        reason=shard.activity.text if shard.state is not EvalState.DONE else "",
    )


def describe_run(status: RunStatus) -> RunRecord:
    """Return the record of a run."""
    rounded = (round(value, 4) if isinstance(value, float) else value for value in status.totals)
    models = dict.fromkeys(row["model_path"] for row in status.rows)
    tasks = dict.fromkeys(row["task_path"] for row in status.rows)
    return RunRecord(
        run_dir=str(status.run.path),
        name=status.run.name,
        user=status.run.user,
        created=status.run.created,
        models=len(models),
        first_model=next(iter(models), ""),
        tasks=len(tasks),
        first_task=next(iter(tasks), ""),
        excluded_nodes=",".join(status.run.excluded_nodes),
        totals=Totals._make(rounded),
    )


def _rounded(value: float | None) -> float | None:
    return round(value, 1) if value is not None else None
