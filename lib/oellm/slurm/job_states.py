"""What Slurm says about jobs: whether they wait, run or have ended, and why.

squeue also knows the jobs that ended within the last minutes (Slurm's MinJobAge), with their exit
status; sacct, where there is accounting, knows all, with their steps and who cancelled them.
"""

from __future__ import annotations

import datetime
import pwd
import re
from collections.abc import Iterable
from typing import NamedTuple

from oellm.errors import OellmError
from oellm.slurm import commands

# A job, and the index of its array element.
Key = tuple[int, int]

RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"})
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"}
    | {"RESIZING", "SPECIAL_EXIT", "STOPPED", "SUSPENDED"}
)
ACTIVE = RUNNING | WAITING
OUT_OF_MEMORY = "its job ran out of memory (setting mem)"
NODE_FAILED = "its node failed"

_FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "Reason", "NodeList", "exit_code", "RestartCnt")
_FORMAT = ",".join(f"{field}:|" for field in (*_FIELDS, "StartTime"))
_TOLD = (
    (re.compile(r"oom[-_ ]kill|exceeded (job |step )?memory limit", re.IGNORECASE), OUT_OF_MEMORY),
    (re.compile("DUE TO NODE FAILURE"), NODE_FAILED),
    (re.compile("DUE TO PREEMPTION"), "its job was preempted"),
    (re.compile("DUE TO TIME LIMIT"), "its job reached its time limit"),
    (re.compile("^stopped before the time limit"), "its job came near its time limit"),
)
_REASONS = {
    "COMPLETED": "its job ended in order without it",
    "DEADLINE": "its job reached its deadline",
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "PREEMPTED": "its job was preempted",
    "TIMEOUT": "its job reached its time limit",
}


class JobState(NamedTuple):
    """What Slurm says about an array element."""

    state: str
    # Slurm's own word for why it waits, or ended.
    reason: str = ""
    nodes: str = ""
    exit_code: int = 0
    signal: int = 0
    restarts: int = 0
    # In local time, as Slurm tells it; also a time to come. None where there is none.
    start: datetime.datetime | None = None
    cancelled_by: str = ""


def in_queue(job_ids: Iterable[int]) -> dict[Key, JobState]:
    """Ask squeue about jobs; the answer lacks those that Slurm has forgotten.

    Raises MachineError where squeue is missing or silent, OellmError where it fails.
    """
    listed = ",".join(map(str, sorted(job_ids)))
    command = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={listed}")
    try:
        return parse_queue(commands.call([*command, f"--Format={_FORMAT}"]))
    except OellmError as error:
        # So it says where it was asked about one job only.
        if "Invalid job id" in str(error):
            return {}
        raise


def parse_queue(text: str) -> dict[Key, JobState]:
    """Read the answer of squeue; raises OellmError where it is something else."""
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        numbers = (fields[0], fields[5], fields[6]) if len(fields) == 9 else ("",)
        if not all(number.isdecimal() for number in numbers):
            raise OellmError(f"squeue: expected a job's fields, got {line!r}")
        job_id, index, state, reason, nodes, status, restarts, start, _ = fields
        if index.isdecimal():
            # As waitpid gives it.
            code, number = int(status) >> 8, int(status) & 0x7F
            found[int(job_id), int(index)] = JobState(
                state, reason, nodes, code, number, int(restarts), _time(start)
            )
    return found


def in_accounting(job_ids: Iterable[int]) -> dict[Key, JobState]:
    """Ask sacct about jobs.

    Raises MachineError where sacct is missing or silent, OellmError where it fails: also where
    there is no accounting.
    """
    listed = ",".join(map(str, sorted(job_ids)))
    fields = "--format=JobID,State,ExitCode,NodeList,Start"
    answer = commands.call(["sacct", "--noheader", "--parsable2", f"--jobs={listed}", fields])
    return {
        key: job._replace(cancelled_by=_user(job.cancelled_by))
        for key, job in parse_accounting(answer).items()
    }


def parse_accounting(text: str) -> dict[Key, JobState]:
    """Read the answer of sacct; a step that ran out of memory makes that the state of its job.

    `cancelled_by` is a user's number. Raises OellmError where the text is something else.
    """
    found: dict[Key, JobState] = {}
    for line in text.splitlines():
        fields = line.split("|")
        exit_match = re.fullmatch(r"(\d+):(\d+)", fields[2]) if len(fields) == 5 else None
        if exit_match is None:
            raise OellmError(f"sacct: expected a job's fields, got {line!r}")
        # Neither jobs without an array, nor elements that wait together: 4711_[3-9].
        place = re.fullmatch(r"(\d+)_(\d+)(\..+)?", fields[0])
        if place is None:
            continue
        key = (int(place[1]), int(place[2]))
        state, _, by = fields[1].partition(" by ")
        if place[3] is None:
            codes = (int(exit_match[1]), int(exit_match[2]))
            found[key] = JobState(state, "", fields[3], *codes, 0, _time(fields[4]), by)
        elif state == "OUT_OF_MEMORY" and key in found:
            found[key] = found[key]._replace(state=state)
    return found


def explained(job: JobState | None, log: str) -> str:
    """Return in plain words why a job ended; `log` is the end of its log, where Slurm may say it.

    None is a job that Slurm has forgotten.
    """
    if job is None:
        return told(log) or "its job is no longer known to Slurm"
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
        return told(log) or _failed(job)
    return f"its job ended as {job.state}"


def told(log: str) -> str:
    """Return what Slurm's own messages, or the batch script's last, in a log say of a job's end."""
    for line in reversed(log.splitlines()):
        if line.startswith(("slurmstepd", "stopped before")):
            for pattern, reason in _TOLD:
                if pattern.search(line):
                    return reason
    return ""


def _failed(job: JobState) -> str:
    number = job.signal or (job.exit_code - 128 if job.exit_code > 128 else 0)
    if number == 9:
        return "its job was killed by signal 9, probably for lack of memory"
    if number:
        return f"its job was killed by signal {number}"
    if job.exit_code == 75:
        return "its job was told to stop"
    return f"its job ended with status {job.exit_code}"


def _time(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def _user(number: str) -> str:
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError):
        return number
