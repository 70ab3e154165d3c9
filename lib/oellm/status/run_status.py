"""The state of a run, joined from what its files, workers and Slurm say. Asks nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from oellm.frameworks.stages import EVALUATE, GENERATE
from oellm.runs.heartbeat import Heartbeat
from oellm.runs.run_directory import Run
from oellm.runs.run_record import Shard
from oellm.runs.shard_jobs import newest_jobs
from oellm.status.row_states import StageStates, find_states
from oellm.status.shard_activity import find_activity
from oellm.status.statuses import (
    EvalState,
    Evidence,
    RowStatus,
    RunStatus,
    ShardActivity,
    ShardPhase,
    ShardStatus,
    Totals,
    worst_state,
)


def join_evidence(evidence: Evidence) -> RunStatus:
    """Return the state of a run, with the rows of each shard in the order of the manifest.

    The second stages of an element may be none; such a shard is left out.
    """
    run, jobs = evidence.run, newest_jobs(evidence.run)
    activities = {
        index: find_activity(
            jobs.get(index), index, evidence.heartbeats.get(index), evidence=evidence
        )
        for index in (shard.index for shard in run.shards)
    }
    rows_of: dict[int, list[RowStatus]] = {shard.index: [] for shard in run.shards}
    states_of: dict[int, list[StageStates]] = {shard.index: [] for shard in run.shards}
    for row in evidence.rows:
        states = find_states(row, activities, evidence)
        states_of[int(row["shard"])].append(states)
        for stage in filter(None, states):
            rows_of[stage.shard_index].append(stage)
    shards = [
        _measure(
            shard,
            rows_of[shard.index],
            activities[shard.index],
            heartbeat=evidence.heartbeats.get(shard.index),
        )
        for shard in run.shards
        if rows_of[shard.index] or run.arrays[shard.array].follows is None
    ]
    rows = [states.current for members in states_of.values() for states in members]
    return RunStatus(run, shards, _sum_up(run, shards, rows), rows=evidence.rows, states=rows)


def _measure(
    shard: Shard,
    rows: list[RowStatus],
    activity: ShardActivity,
    *,
    heartbeat: Heartbeat | None,
) -> ShardStatus:
    attempts = heartbeat.attempts if heartbeat is not None else ()
    taken_s = sum(attempt.seconds for attempt in attempts)
    rows_per_h = None
    if (beat := activity.heartbeat) is not None and (ended := beat.state.ended_rows):
        rows_per_h = ended / max(1e-3, beat.attempt.seconds) * 3600
    finished = sum(row.state in (EvalState.DONE, EvalState.FAILED) for row in rows)
    progress = finished + sum(row.share_answered for row in rows)
    left_s: float | None = None
    is_over = activity.phase in (ShardPhase.ENDING, ShardPhase.ENDED)
    if progress == len(rows) or (is_over and activity.is_cancelled):
        left_s = 0.0
    elif taken_s and progress:
        left_s = taken_s * (len(rows) - progress) / progress
    elif shard.estimate_s:
        left_s = max(0.0, shard.estimate_s - taken_s)
    stages = {row.stage for row in rows}
    return ShardStatus(
        index=shard.index,
        # First stages may be computed with rows that have one stage.
        stage=next((stage for stage in (GENERATE, EVALUATE) if stage in stages), ""),
        rows=rows,
        activity=activity,
        estimate_s=shard.estimate_s,
        measured_s=taken_s,
        scoring_s=sum(attempt.scoring_s for attempt in attempts),
        gpu_s=sum(attempt.seconds * attempt.gpus for attempt in attempts),
        rows_per_h=rows_per_h,
        left_s=left_s,
    )


def _sum_up(run: Run, shards: Sequence[ShardStatus], rows: Sequence[RowStatus]) -> Totals:
    """Return the totals of a run's shards, and of its rows."""
    counts = Counter(row.state for row in rows)
    stages = Counter((row.stage, row.state) for row in rows)
    firsts = [shard for shard in shards if shard.stage != EVALUATE]
    seconds = [shard for shard in shards if shard.stage == EVALUATE]
    is_running = bool(_running(shards))
    finished = [shard for shard in shards if shard.state is EvalState.DONE and shard.measured_s]
    # Second stages ask no model.
    taken_s = sum(shard.measured_s for shard in firsts)
    return Totals(
        rows=sum(counts.values()),
        done=counts[EvalState.DONE],
        running=counts[EvalState.RUNNING],
        pending=counts[EvalState.PENDING],
        not_submitted=counts[EvalState.NOT_SUBMITTED],
        failed=counts[EvalState.FAILED],
        lost=counts[EvalState.LOST],
        cancelled=counts[EvalState.CANCELLED],
        generating=stages[GENERATE, EvalState.RUNNING],
        generated=stages[EVALUATE, EvalState.PENDING],
        evaluating=stages[EVALUATE, EvalState.RUNNING],
        state=EvalState.RUNNING if is_running else worst_state(counts),
        # The pace of second stages is that of the first ones before them.
        rows_per_h=_sum_rates(firsts) or _sum_rates(seconds),
        left_s=_estimate_left(firsts, seconds) if is_running else None,
        gpu_hours=sum(shard.gpu_s for shard in shards) / 3600,
        gpu_hours_planned=run.planned_gpu_hours,
        scoring_share=sum(shard.scoring_s for shard in firsts) / taken_s if taken_s else None,
        estimate_s=sum(shard.estimate_s for shard in finished),
        measured_s=sum(shard.measured_s for shard in finished),
    )


def _sum_rates(shards: Sequence[ShardStatus]) -> float | None:
    rates = [shard.rows_per_h for shard in _running(shards) if shard.rows_per_h is not None]
    return sum(rates) if rates else None


def _estimate_left(firsts: Sequence[ShardStatus], seconds: Sequence[ShardStatus]) -> float | None:
    """Return how long a run still takes if as many workers go on as run now; None if unknown.

    The second stages of an element begin when its first ones are done, so after the last first
    stage only the longest second one is left.
    """
    first_s, second_s = _estimate_stage(firsts), _estimate_stage(seconds)
    if first_s is None:
        return None
    if not first_s:
        return second_s
    lefts = [shard.left_s for shard in seconds]
    known = [left for left in lefts if left is not None]
    return first_s + max(known, default=0.0) if len(known) == len(lefts) else None


def _estimate_stage(shards: Sequence[ShardStatus]) -> float | None:
    """Return how long some shards still take, one after the other in as many workers as run now."""
    lefts = [shard.left_s for shard in shards if shard.left_s != 0.0]
    known = [left for left in lefts if left is not None]
    running = len(_running(shards))
    if not lefts:
        return 0.0
    if not running or len(known) < len(lefts):
        return None
    return max(sum(known) / running, *known)


def _running(shards: Sequence[ShardStatus]) -> list[ShardStatus]:
    return [shard for shard in shards if shard.state is EvalState.RUNNING]
