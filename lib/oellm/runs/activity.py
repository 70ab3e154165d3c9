"""Which shards of runs may still be evaluated: their jobs are queued, or their workers run.

Who computes nothing twice must know it of runs of other users, other machines and other clusters,
too. Evidence is Slurm's queue, the heartbeats of workers, and the lock that oe-submit holds while
it runs elements itself. If none of them tells that a submission has ended, it may still run.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from oellm.core import json_codec
from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.runs import heartbeat
from oellm.runs.heartbeat import Beat
from oellm.runs.run_directory import Run
from oellm.slurm import commands, job_states
from oellm.slurm.job_states import JobState, Key

# Seconds for which a heartbeat of another machine counts as a sign of life.
_FRESH_S = 60.0
# Seconds for which the lock of another machine does. Its holder refreshes it each minute.
_LOCK_S = 900.0
_LOCK = "submit.lock"
# Job ids of one question to Slurm.
_IDS_AT_ONCE = 1000
# How a worker ends that leaves nothing to do.
_FINISHED = "finished"


class Activity(str, Enum):
    """Whether a shard is being evaluated.

    PROBABLE means that it was submitted, and nothing tells that it ended.
    """

    ACTIVE = "active"
    PROBABLE = "probable"

    def __str__(self) -> str:
        return self.value


class Queue(NamedTuple):
    """What Slurm says of jobs.

    Attributes:
        cluster: The cluster whose queue it is; of others it says nothing.
        states: The states of the jobs that Slurm knows; None if it did not answer.
        hides_others: Whether it may keep back the jobs of other users.
    """

    cluster: str
    states: Mapping[Key, JobState] | None
    hides_others: bool = False


def ask_queue(runs: Sequence[Run], cluster: str, log: Log) -> Queue:
    """Ask Slurm about the submissions of runs of a cluster, and log if it does not answer."""
    asked = [run for run in runs if run.setting("name") == cluster]
    jobs = [job for run in asked for job in run.record["jobs"] if job["executor"] == "slurm"]
    ids = sorted({job["job_id"] for job in jobs} - {None})
    states: dict[Key, JobState] = {}
    try:
        for start in range(0, len(ids), _IDS_AT_ONCE):
            states |= job_states.in_queue(ids[start : start + _IDS_AT_ONCE])
        hides = bool(ids) and any(map(_is_of_another, asked)) and commands.hides_jobs()
    except OellmError as error:
        log(f"{error}; rows that were submitted count as queued unless their worker finished")
        return Queue(cluster, None)
    return Queue(cluster, states, hides)


def find_activity(run: Run, queue: Queue) -> dict[int, Activity]:
    """Return the shards of a run that are being evaluated, or may be."""
    beats = heartbeat.read_all(run.path)
    members: dict[tuple[int, int], list[int]] = {}
    for shard in run.shards:
        members.setdefault((shard.array, shard.element), []).append(shard.index)
    # A later submission of a shard replaces an earlier one, which had ended then.
    found: dict[int, Activity | None] = {}
    for job in run.record["jobs"]:
        for element in job["elements"]:
            for shard_index in members.get((job["array"], element), ()):
                found[shard_index] = _activity(
                    run, job, element - job["offset"], beats.get(shard_index), queue
                )
    return {shard: activity for shard, activity in found.items() if activity is not None}


def _activity(
    run: Run, job: Mapping[str, Any], index: int, beat: Beat | None, queue: Queue
) -> Activity | None:
    """Return whether a shard is active by its newest submission and its newest heartbeat."""
    submitted = datetime.datetime.fromisoformat(job["submitted"])
    if beat is not None and datetime.datetime.fromisoformat(beat["updated"]) < submitted:
        beat = None
    if job["executor"] != "slurm":
        return _local_activity(run, beat)
    is_known = job["job_id"] is not None and run.setting("name") == queue.cluster
    if is_known and queue.states is not None:
        state = queue.states.get((job["job_id"], index))
        if state is not None:
            return Activity.ACTIVE if state.state in job_states.ACTIVE else None
        if not (queue.hides_others and _is_of_another(run)):
            # Slurm has forgotten the job; its worker may still write its last results.
            return Activity.ACTIVE if _is_alive(beat) else None
    if _is_alive(beat):
        return Activity.ACTIVE
    return None if beat is not None and beat["ended"] == _FINISHED else Activity.PROBABLE


def _local_activity(run: Run, beat: Beat | None) -> Activity | None:
    if _is_alive(beat):
        return Activity.ACTIVE
    has_ended = beat is not None
    return Activity.ACTIVE if not has_ended and _is_locked(run) else None


def _is_alive(beat: Beat | None) -> bool:
    """Return whether the worker of a heartbeat runs; on other machines, by the heartbeat's age."""
    if beat is None or beat["ended"]:
        return False
    if beat["host"] == socket.gethostname():
        return heartbeat.is_alive_here(beat)
    updated = datetime.datetime.fromisoformat(beat["updated"])
    age = datetime.datetime.now(datetime.timezone.utc) - updated
    return age.total_seconds() < _FRESH_S


def _is_of_another(run: Run) -> bool:
    """Return whether another user has the run."""
    try:
        return os.stat(run.path).st_uid != os.geteuid()
    except OSError:
        return True


def _is_locked(run: Run) -> bool:
    """Return whether an oe-submit holds the run's lock, as while it runs elements itself."""
    path = run.path / _LOCK
    with contextlib.suppress(OSError, ValueError):
        if time.time() - path.stat().st_mtime < _LOCK_S:
            holder = json_codec.loads(path.read_bytes())
            return holder["host"] != socket.gethostname() or os.path.exists(
                f"/proc/{holder['pid']}"
            )
    return False
