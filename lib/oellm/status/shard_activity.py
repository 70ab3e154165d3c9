"""What happens to a shard, and where: from its newest submission, heartbeat, log and Slurm."""

from __future__ import annotations

import re
from dataclasses import replace

from oellm.runs.heartbeat import Heartbeat
from oellm.runs.run_directory import Run
from oellm.runs.shard_jobs import ShardJob
from oellm.slurm import job_ends, job_states
from oellm.slurm.clusters import cluster_option
from oellm.slurm.job_ends import JobEnd
from oellm.slurm.job_states import ArrayTask, JobState
from oellm.status.statuses import SILENT_S, Evidence, ShardActivity, ShardPhase

# Slurm's words for a job that does not start by itself, such as after a node could not launch it.
_HELD = re.compile("held|JobHoldMaxRequeue", re.IGNORECASE)

# Slurm's word for a job that waits for another one.
_DEPENDS = "Dependency"
# And for one whose dependency has failed.
_NEVER = "DependencyNeverSatisfied"
_GIVEN_UP = "Slurm did not start its job, because that of the first stages did not succeed"


def find_activity(
    job: ShardJob | None, shard: int, heartbeat: Heartbeat | None, evidence: Evidence
) -> ShardActivity:
    """Return what happens to a shard; `job` is its newest submission, None if there is none."""
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
            and evidence.silence_s(heartbeat) < SILENT_S
        ):
            return _running(heartbeat, name, heartbeat.host)
        if job.is_cancelled:
            end = job_ends.explain_cancelled(job.submission.cancelled_by)
            ended = ShardActivity(ShardPhase.ENDED, "", since, job=name)
            return _ended(ended, end, job, evidence=evidence)
        reason = f"submitted as job {name}; no answer from Slurm"
        return ShardActivity(ShardPhase.QUEUED, reason, since, job=name)
    state, log = evidence.jobs.get(task), evidence.log_text(job.shard)
    if state is not None and _is_given_up(state, job, evidence.run):
        return ShardActivity(ShardPhase.ENDED, _GIVEN_UP, since, job=name)
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


def _is_given_up(state: JobState, job: ShardJob, run: Run) -> bool:
    """Return whether Slurm cancelled a job of second stages, because its dependency failed."""
    is_second = run.arrays[run.shards[job.shard].array].follows is not None
    is_cancelled = job.is_cancelled or bool(state.cancelled_by)
    # The accounting tells no reason, but who cancelled a job.
    is_given_up = state.state == "CANCELLED" and not state.reason and not is_cancelled
    return is_second and (is_given_up or state.reason == _NEVER)


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
    if job.reason == _DEPENDS:
        reason = "waits for its first stages"
    if _HELD.search(job.reason):
        command = " ".join(["scontrol", *cluster_option(task.cluster), "release"])
        element = f"{task.job_id}_{task.array_index}"
        reason = f"held ({job.reason}): it waits until {command} {element}"
    if job.restarts:
        reason += f", requeued: {job_ends.explain_log(log) or 'reason unknown'}"
    return reason
