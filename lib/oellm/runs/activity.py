"""Which shards of runs may still be evaluated: their jobs are queued, or their workers run.

A command that must compute nothing twice needs to know this also of runs of other users, machines
and clusters. The evidence is Slurm's queue, the heartbeats of workers, and the lock that oe-submit
holds while it runs elements itself. A submission that may have ended, but for which no evidence
says so, may still run.
"""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.text_enum import TextEnum
from oellm.errors import OellmError
from oellm.runs.heartbeat import Heartbeat, read_heartbeats
from oellm.runs.run_directory import Run
from oellm.runs.shard_jobs import ShardJob, newest_jobs
from oellm.runs.submit_lock import is_run_locked
from oellm.slurm import job_states
from oellm.slurm.clusters import OWN
from oellm.slurm.commands import ask_configuration, hides_jobs
from oellm.slurm.job_states import ArrayTask, JobState
from oellm.slurm.queue import ask_job_states

# Seconds for which a heartbeat of another machine counts as a sign of life.
_FRESH_S = 60.0
# Job ids in one question to Slurm.
_IDS_AT_ONCE = 1000
# How a worker ends that leaves nothing to do.
_FINISHED = "finished"


class Activity(TextEnum):
    """Whether a shard is being evaluated.

    PROBABLE means that it was submitted, and nothing tells that it ended.
    """

    ACTIVE = "active"
    PROBABLE = "probable"


class Queue(NamedTuple):
    """What Slurm says of jobs.

    Attributes:
        cluster: The cluster whose queue it is; it says nothing of other clusters.
        states: The states of the jobs that Slurm knows; None if it did not answer.
        hides_others: Whether it may hide the jobs of other users.
        slurm: The name of this Slurm (ClusterName), empty if not known. Several clusters may have
            settings of one name, and one file system.
    """

    cluster: str
    states: Mapping[ArrayTask, JobState] | None
    hides_others: bool = False
    slurm: str = ""

    def knows(self, run: Run, job: ShardJob) -> bool:
        """Return whether a job would be in the queue if it were not over."""
        here = job.submission.slurm in ("", self.slurm) or not self.slurm
        return self.states is not None and run.setting("name") == self.cluster and here


def ask_queue_of_runs(runs: Sequence[Run], cluster: str, log: Log) -> Queue:
    """Ask Slurm about the submissions of the runs of a cluster, and log if it does not answer."""
    runs_here = [run for run in runs if run.setting("name") == cluster]
    submissions = [submission for run in runs_here for submission in run.submissions]
    jobs = sorted({job for s in submissions if (job := s.slurm_job) is not None})
    states: dict[ArrayTask, JobState] = {}
    slurm, hides = "", False
    try:
        for start in range(0, len(jobs), _IDS_AT_ONCE):
            states |= ask_job_states(jobs[start : start + _IDS_AT_ONCE])
        is_of_another = any(map(_is_of_another, runs_here))
        if jobs and (is_of_another or any(submission.slurm for submission in submissions)):
            configuration = ask_configuration()
            slurm = configuration.get("ClusterName", "")
            clusters = {job.cluster for job in jobs} - {OWN} if is_of_another else ()
            hides = is_of_another and any(
                map(hides_jobs, (configuration, *map(ask_configuration, clusters)))
            )
    except OellmError as error:
        # squeue may say several lines.
        reason = "; ".join(str(error).splitlines())
        log(f"{reason}; rows that were submitted count as queued unless their worker finished")
        return Queue(cluster, None)
    return Queue(cluster, states, hides, slurm=slurm)


def find_activity(run: Run, queue: Queue) -> dict[int, Activity]:
    """Return the shards of a run that are being evaluated, or may be."""
    heartbeats = read_heartbeats(run.path)
    # A newer submission of a shard replaces an older one, which had ended by then.
    activities = {
        shard: _find_shard_activity(run, job, heartbeats.get(shard), queue=queue)
        for shard, job in newest_jobs(run).items()
    }
    return {shard: activity for shard, activity in activities.items() if activity is not None}


def _find_shard_activity(
    run: Run, job: ShardJob, heartbeat: Heartbeat | None, queue: Queue
) -> Activity | None:
    """Return whether a shard is active by its newest submission and its newest heartbeat."""
    if heartbeat is not None and heartbeat.attempt.update_time < job.submission.time:
        heartbeat = None
    is_alive = heartbeat is not None and _is_alive(heartbeat)
    if job.is_local:
        is_waiting = heartbeat is None and is_run_locked(run.path)
        return Activity.ACTIVE if is_alive or is_waiting else None
    if job.task is not None and queue.states is not None and queue.knows(run, job):
        state = queue.states.get(job.task)
        if state is not None:
            return Activity.ACTIVE if state.state in job_states.ACTIVE else None
        if not (queue.hides_others and _is_of_another(run)):
            # Slurm has forgotten the job; its worker may still write its last results.
            return Activity.ACTIVE if is_alive else None
    if is_alive:
        return Activity.ACTIVE
    has_finished = heartbeat is not None and heartbeat.state.ended == _FINISHED
    return None if has_finished else Activity.PROBABLE


def _is_alive(heartbeat: Heartbeat) -> bool:
    """Return whether the worker of a heartbeat runs; on other machines, by the heartbeat's age."""
    if heartbeat.state.ended:
        return False
    if heartbeat.host == socket.gethostname():
        return heartbeat.is_alive_here()
    age = datetime.datetime.now(datetime.timezone.utc) - heartbeat.attempt.update_time
    # A time in the future is from a clock that was wrong; it would count for as long.
    return abs(age.total_seconds()) < _FRESH_S


def _is_of_another(run: Run) -> bool:
    """Return whether the run belongs to another user."""
    try:
        return os.stat(run.path).st_uid != os.geteuid()
    except OSError:
        return True
