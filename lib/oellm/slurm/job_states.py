"""What Slurm says about jobs: whether they wait, run or have ended, and why.

squeue also knows the jobs that ended within the last minutes (Slurm's MinJobAge), with their exit
status. sacct, on clusters with accounting, knows all jobs, with their steps and who cancelled them.
"""

from __future__ import annotations

import datetime
import pwd
import re
from collections.abc import Iterable
from typing import NamedTuple

from oellm.errors import OellmError
from oellm.slurm.commands import call_slurm

RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"})
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"}
    | {"RESIZING", "SPECIAL_EXIT", "STOPPED", "SUSPENDED"}
)
ACTIVE = RUNNING | WAITING
OUT_OF_MEMORY = "its job ran out of memory (setting mem)"
NODE_FAILED = "its node failed"

_LOG_MESSAGES = (
    (re.compile(r"oom[-_ ]kill|exceeded (job |step )?memory limit", re.IGNORECASE), OUT_OF_MEMORY),
    (re.compile("DUE TO NODE FAILURE"), NODE_FAILED),
    (re.compile("DUE TO PREEMPTION"), "its job was preempted"),
    (re.compile("DUE TO TIME LIMIT"), "its job reached its time limit"),
    (re.compile("^stopped before the time limit"), "its job stopped before its time limit"),
)
_REASONS = {
    "COMPLETED": "its job ended normally without it",
    "DEADLINE": "its job reached its deadline",
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "PREEMPTED": "its job was preempted",
    "TIMEOUT": "its job reached its time limit",
}


class ArrayTask(NamedTuple):
    """An element of a job array as Slurm counts it."""

    job_id: int
    array_index: int

    def __str__(self) -> str:
        return f"{self.job_id}_{self.array_index}"


class JobState(NamedTuple):
    """What Slurm says about an array element.

    Attributes:
        state: Slurm's word for what it does.
        reason: Slurm's word for why it waits, or ended.
        nodes: The nodes that it has, or had.
        exit_code: The exit status of its script.
        signal: The signal that ended its script, 0 if none did.
        restarts: How often it was requeued.
        start: When it started, or will start, in local time; None if Slurm does not know.
        cancelled_by: Who cancelled it; empty if nobody did, or Slurm does not know.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    exit_code: int = 0
    signal: int = 0
    restarts: int = 0
    start: datetime.datetime | None = None
    cancelled_by: str = ""


def ask_accounting(job_ids: Iterable[int]) -> dict[ArrayTask, JobState]:
    """Ask sacct about job arrays.

    Raises MachineError if sacct is missing or silent, OellmError if it fails; it also fails if
    there is no accounting.
    """
    listed = ",".join(map(str, sorted(job_ids)))
    fields = "--format=JobID,State,ExitCode,NodeList,Start"
    answer = call_slurm(["sacct", "--noheader", "--parsable2", f"--jobs={listed}", fields])
    return {
        task: job._replace(cancelled_by=_user_name(job.cancelled_by))
        for task, job in parse_accounting(answer).items()
    }


def parse_accounting(text: str) -> dict[ArrayTask, JobState]:
    """Read the answer of sacct; if a step ran out of memory, that is the state of its job.

    `cancelled_by` is a user's number. Raises OellmError if the text is something else.
    """
    jobs: dict[ArrayTask, JobState] = {}
    for line in text.splitlines():
        fields = line.split("|")
        exit_match = re.fullmatch("([0-9]+):([0-9]+)", fields[2]) if len(fields) == 5 else None
        if exit_match is None:
            raise OellmError(f"sacct: expected a job's fields, got {line!r}")
        # This skips jobs that are no array, and elements that wait together: 4711_[3-9].
        place = re.fullmatch(r"([0-9]+)_([0-9]+)(\..+)?", fields[0])
        if place is None:
            continue
        task = ArrayTask(int(place[1]), int(place[2]))
        state, _, by = fields[1].partition(" by ")
        if place[3] is None:
            jobs[task] = JobState(
                state=state,
                nodes=fields[3],
                exit_code=int(exit_match[1]),
                signal=int(exit_match[2]),
                start=parse_time(fields[4]),
                cancelled_by=by,
            )
        elif state == "OUT_OF_MEMORY" and task in jobs:
            jobs[task] = jobs[task]._replace(state=state)
    return jobs


def explain_end(job: JobState | None, log: str) -> str:
    """Return in plain words why a job ended; None is a job that Slurm has forgotten.

    `log` is the end of the job's log, in which Slurm may say why.
    """
    if job is None:
        return explain_log(log) or "its job is no longer known to Slurm"
    if job.state in _REASONS:
        return _REASONS[job.state]
    node = f" ({job.nodes})" if job.nodes and job.nodes != "None assigned" else ""
    if job.state == "NODE_FAIL":
        return NODE_FAILED + node
    if job.state == "BOOT_FAIL":
        return f"its node did not start{node}"
    if job.state == "CANCELLED":
        return "its job was cancelled" + (f" by {job.cancelled_by}" if job.cancelled_by else "")
    if job.state == "FAILED":
        return explain_log(log) or _explain_failure(job)
    return f"its job ended as {job.state}"


def explain_log(log: str) -> str | None:
    """Return what the last messages of Slurm or the batch script in a log say of a job's end."""
    for line in reversed(log.splitlines()):
        if line.startswith(("slurmstepd", "stopped before")):
            for pattern, reason in _LOG_MESSAGES:
                if pattern.search(line):
                    return reason
    return None


def _explain_failure(job: JobState) -> str:
    number = job.signal or (job.exit_code - 128 if job.exit_code > 128 else 0)
    if number == 9:
        return "its job was killed by signal 9, probably for lack of memory"
    if number:
        return f"its job was killed by signal {number}"
    if job.exit_code == 75:
        return "its job got a signal to stop"
    return f"its job ended with status {job.exit_code}"


def parse_time(text: str) -> datetime.datetime | None:
    """Return a time that Slurm prints, in local time; None for N/A and Unknown."""
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def _user_name(number: str) -> str:
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError):
        return number
