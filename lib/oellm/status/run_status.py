"""The state of a run, joined from what its files, workers and Slurm say. Asks nothing itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from oellm.manifest.rows import Row
from oellm.runs.heartbeat import Heartbeat, RowAtWork, RowPhase
from oellm.runs.result_store import RecordedFailure
from oellm.runs.run_directory import Run
from oellm.runs.run_record import Shard
from oellm.runs.shard_jobs import ShardJob, newest_jobs
from oellm.slurm import job_ends, job_states
from oellm.slurm.clusters import cluster_option
from oellm.slurm.job_ends import JobEnd
from oellm.slurm.job_states import ArrayTask, JobState
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

# Slurm's words for a job that does not start by itself, such as after a node could not launch it.
_HELD = re.compile("held|JobHoldMaxRequeue", re.IGNORECASE)
# Seconds without a heartbeat after which a worker counts as silent.
_SILENT_S = 60.0


def join_evidence(evidence: Evidence) -> RunStatus:
    """Return the state of a run, with the rows of each shard in the order of the manifest."""
    rows_of: dict[int, list[Row]] = {shard.index: [] for shard in evidence.run.shards}
    for row in evidence.rows:
        rows_of[int(row["shard"])].append(row)
    jobs = newest_jobs(evidence.run)
    statuses = []
    for shard in evidence.run.shards:
        heartbeat = evidence.heartbeats.get(shard.index)
        activity = _find_activity(jobs.get(shard.index), shard.index, heartbeat, evidence=evidence)
        rows = [_row_status(row, activity, evidence) for row in rows_of[shard.index]]
        statuses.append(_measure(shard, rows, activity, heartbeat=heartbeat))
    totals = _sum_up(evidence.run, statuses)
    return RunStatus(evidence.run, statuses, totals, rows=evidence.rows)


def _find_activity(
    job: ShardJob | None, shard: int, heartbeat: Heartbeat | None, evidence: Evidence
) -> ShardActivity:
    if shard in evidence.workers_here and heartbeat is not None:
        return _running(heartbeat, heartbeat.attempt.job, heartbeat.host)
    if job is None:
        return ShardActivity(ShardPhase.UNSUBMITTED, "not submitted", since=None)
    if job.is_local:
        return _find_local_activity(job, heartbeat, evidence)
    if job.task is None:
        reason = "its submission is not confirmed yet; the next oe-submit looks for it"
        return ShardActivity(ShardPhase.QUEUED, reason, since=job.submission.time)
    return _find_slurm_activity(job, job.task, heartbeat, evidence=evidence)


def _find_slurm_activity(
    job: ShardJob, task: ArrayTask, heartbeat: Heartbeat | None, evidence: Evidence
) -> ShardActivity:
    since = job.submission.time
    if heartbeat is not None and heartbeat.attempt.job.split("_")[0] != str(task.job_id):
        # It was written by an earlier job.
        heartbeat = None
    name = str(task)
    if evidence.jobs is None:
        if (
            heartbeat is not None
            and not heartbeat.state.ended
            and evidence.silence_s(heartbeat) < _SILENT_S
        ):
            return _running(heartbeat, name, heartbeat.host)
        if job.is_cancelled:
            end = job_ends.explain_cancelled(job.submission.cancelled_by)
            ended = ShardActivity(ShardPhase.ENDED, "", since, job=name)
            return _ended(ended, end, job, evidence=evidence)
        reason = f"submitted as job {name}; no answer from Slurm"
        return ShardActivity(ShardPhase.QUEUED, reason, since, job=name)
    state, log = evidence.jobs.get(task), evidence.log_text(job.shard)
    if state is not None and state.state in job_states.WAITING:
        reason = _explain_waiting(task, state, log)
        return ShardActivity(ShardPhase.QUEUED, reason, since=evidence.now, job=name)
    if state is not None and state.state == "COMPLETING":
        return ShardActivity(
            ShardPhase.ENDING, "its job is ending", since, job=name, node=state.nodes
        )
    if state is not None and state.state in job_states.RUNNING:
        is_older = state.start and heartbeat and heartbeat.attempt.update_time < state.start
        if heartbeat is None or is_older:
            # No worker of this job has written yet, or not since the job was requeued.
            return ShardActivity(ShardPhase.RUNNING, "", since, job=name, node=state.nodes)
        return _running(heartbeat, name, state.nodes)
    node = state.nodes if state is not None else ""
    activity = ShardActivity(ShardPhase.ENDED, "", since, job=name, node=node)
    return _ended(
        activity, _explain_slurm_end(job, state, heartbeat, log=log), job, evidence=evidence
    )


def _explain_slurm_end(
    job: ShardJob, state: JobState | None, heartbeat: Heartbeat | None, log: str
) -> JobEnd:
    end = job_ends.explain_end(state, log)
    if job.is_cancelled and (state is None or end.is_cancelled):
        return job_ends.explain_cancelled(
            (state.cancelled_by if state is not None else "") or job.submission.cancelled_by
        )
    unusable = heartbeat.state.unusable if heartbeat is not None else ""
    if unusable and heartbeat is not None and not end.is_cancelled:
        return JobEnd(f"its node {heartbeat.host} cannot evaluate it: {unusable}")
    return end


def _ended(
    activity: ShardActivity, end: JobEnd, job: ShardJob, evidence: Evidence
) -> ShardActivity:
    return replace(
        activity,
        reason=end.reason,
        last_line=end.last_line,
        is_cancelled=end.is_cancelled,
        log=evidence.logs[job.shard].path if job.shard in evidence.logs else "",
    )


def _running(heartbeat: Heartbeat, job: str, node: str) -> ShardActivity:
    since = heartbeat.attempt.start_time
    return ShardActivity(ShardPhase.RUNNING, "", since, job=job, node=node, heartbeat=heartbeat)


def _find_local_activity(
    job: ShardJob, heartbeat: Heartbeat | None, evidence: Evidence
) -> ShardActivity:
    since = job.submission.time
    ended = ShardActivity(ShardPhase.ENDED, "", since)
    said = job_ends.last_line(evidence.log_text(job.shard))
    if heartbeat is not None and heartbeat.attempt.update_time >= since:
        how = heartbeat.state.ended or "ended without a message"
        verb = "was " if how.startswith("stopped") else ""
        end = JobEnd(f"its worker {verb}{how}", said)
        if heartbeat.state.unusable:
            end = JobEnd(f"{heartbeat.host} cannot evaluate it: {heartbeat.state.unusable}")
        return _ended(replace(ended, node=heartbeat.host), end, job, evidence=evidence)
    if job.submission.job_id in evidence.submitters_here:
        return ShardActivity(
            ShardPhase.QUEUED, "oe-submit runs other elements first", since=evidence.now
        )
    if job.shard in evidence.logs and evidence.logs[job.shard].modified >= since:
        return _ended(
            ended, JobEnd("its job ended before its worker started", said), job, evidence=evidence
        )
    return replace(ended, reason="oe-submit ended before it started")


def _explain_waiting(task: ArrayTask, job: JobState, log: str) -> str:
    reason = f"in the queue ({job.reason})"
    if _HELD.search(job.reason):
        command = " ".join(["scontrol", *cluster_option(task.cluster), "release"])
        element = f"{task.job_id}_{task.array_index}"
        reason = f"held ({job.reason}): it waits until {command} {element}"
    if job.restarts:
        reason += f", requeued: {job_ends.explain_log(log) or 'reason unknown'}"
    return reason


def _row_status(row: Row, activity: ShardActivity, evidence: Evidence) -> RowStatus:
    eval_id = row["eval_id"]
    if eval_id in evidence.done:
        return RowStatus(row, EvalState.DONE, evidence.remarks.get(eval_id, ""), shard=activity)
    if changes := evidence.stale.get(eval_id):
        reason = f"stale: {changes}; oe-submit evaluates it again"
        return RowStatus(row, EvalState.PENDING, reason, shard=activity, is_stale=True)
    failure = evidence.failures.get(eval_id)
    state, reason, at_work = _row_state(eval_id, failure, activity, evidence=evidence)
    has_ended = state in (EvalState.LOST, EvalState.CANCELLED)
    log = failure.log if failure is not None else ""
    return RowStatus(
        row=row,
        state=state,
        reason=reason,
        shard=activity,
        attempts=failure.attempts if failure is not None else 0,
        log=(activity.log or log) if has_ended else log,
        at_work=at_work,
        last_line=activity.last_line if has_ended else "",
    )


def _row_state(
    eval_id: str, failure: RecordedFailure | None, activity: ShardActivity, evidence: Evidence
) -> tuple[EvalState, str, RowAtWork | None]:
    """Return the state of a row without a result, with the reason, and what its worker says."""
    heartbeat = activity.heartbeat
    for row in heartbeat.state.rows if heartbeat is not None else ():
        if row.eval_id == eval_id and heartbeat is not None:
            return EvalState.RUNNING, _describe_work(row, heartbeat, evidence), row
    why = f"{failure.error}: {failure.message}" if failure is not None else ""
    if failure is not None and (activity.since is None or failure.finished >= activity.since):
        if activity.reason == job_ends.OUT_OF_MEMORY:
            why += f"; {activity.reason}"
        return EvalState.FAILED, why, None
    if activity.phase is ShardPhase.ENDED:
        state = EvalState.CANCELLED if activity.is_cancelled else EvalState.LOST
        return state, activity.reason, None
    reason = activity.reason or "in a running job, not started"
    return EvalState.PENDING, f"{reason}; before: {why}" if why else reason, None


def _describe_work(row: RowAtWork, heartbeat: Heartbeat, evidence: Evidence) -> str:
    silence = evidence.silence_s(heartbeat)
    if silence > _SILENT_S:
        return f"no heartbeat for {silence:.0f} s"
    if row.phase is RowPhase.WAITING and heartbeat.state.loading:
        return "its model is being loaded"
    return row.phase.value


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
    if (beat := activity.heartbeat) is not None and (ended := beat.state.done + beat.state.failed):
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
    return ShardStatus(
        index=shard.index,
        rows=rows,
        activity=activity,
        estimate_s=shard.estimate_s,
        measured_s=taken_s,
        scoring_s=sum(attempt.scoring_s for attempt in attempts),
        gpu_s=sum(attempt.seconds * attempt.gpus for attempt in attempts),
        rows_per_h=rows_per_h,
        left_s=left_s,
    )


def _sum_up(run: Run, shards: Sequence[ShardStatus]) -> Totals:
    """Return the totals of a run's shards."""
    counts = Counter(row.state for shard in shards for row in shard.rows)
    unsubmitted = sum(
        row.state is EvalState.PENDING
        and (row.is_stale or shard.activity.phase is ShardPhase.UNSUBMITTED)
        for shard in shards
        for row in shard.rows
    )
    running = [shard for shard in shards if shard.state is EvalState.RUNNING]
    rates = [shard.rows_per_h for shard in running if shard.rows_per_h is not None]
    open_shards = [shard for shard in shards if shard.left_s != 0.0]
    lefts = [shard.left_s for shard in open_shards if shard.left_s is not None]
    left_s = None
    if running and len(lefts) == len(open_shards):
        # If as many workers go on as run now.
        left_s = max([sum(lefts) / len(running), *lefts], default=0.0)
    finished = [shard for shard in shards if shard.state is EvalState.DONE and shard.measured_s]
    taken_s = sum(shard.measured_s for shard in shards)
    return Totals(
        rows=sum(counts.values()),
        done=counts[EvalState.DONE],
        running=counts[EvalState.RUNNING],
        pending=counts[EvalState.PENDING],
        failed=counts[EvalState.FAILED],
        lost=counts[EvalState.LOST],
        cancelled=counts[EvalState.CANCELLED],
        unsubmitted=unsubmitted,
        state=EvalState.RUNNING if running else worst_state(counts),
        rows_per_h=sum(rates) if rates else None,
        left_s=left_s,
        gpu_hours=sum(shard.gpu_s for shard in shards) / 3600,
        gpu_hours_planned=run.planned_gpu_hours,
        scoring_share=sum(shard.scoring_s for shard in shards) / taken_s if taken_s else None,
        estimate_s=sum(shard.estimate_s for shard in finished),
        measured_s=sum(shard.measured_s for shard in finished),
    )
