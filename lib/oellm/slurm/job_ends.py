"""Why a job ended, in plain words: from what Slurm says, and from the end of the job's log."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from oellm.core.display import shorten_end
from oellm.core.redaction import redact
from oellm.errors import ExitStatus
from oellm.slurm.job_states import JobState

OUT_OF_MEMORY = "its job ran out of memory (setting mem)"
NODE_FAILED = "its node failed"

# How lines begin with which Slurm, or the batch script, says why a job ends.
_SLURM = ("slurmstepd", "stopped before")
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
# What the last lines of a log say about a status; the first that fits counts.
_TROUBLES = (
    (re.compile(r"No space left on device|Disk quota exceeded"), "a disk or quota is full"),
    (
        re.compile(r"FATAL: .*mount.*(no such file|doesn't exist|does not exist)", re.IGNORECASE),
        "a path that the container should see does not exist (RUN_DIR/binds lists them)",
    ),
    (re.compile("^FATAL: "), "the container did not start"),
)
_TROUBLE_LINES = 20
# What a shell says of a command that a signal ended: 128 and the number of the signal.
_SIGNALLED = range(129, 193)
_LONGEST_LINE = 300
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f]+")


class JobEnd(NamedTuple):
    """How a job ended.

    Attributes:
        reason: In plain words.
        last_line: The last line of its log that says something; empty if there is none.
        is_cancelled: Whether a user took it out of the queue.
    """

    reason: str
    last_line: str = ""
    is_cancelled: bool = False


def explain_end(job: JobState | None, log: str) -> JobEnd:
    """Return why a job ended; None is a job that Slurm has forgotten.

    `log` is the end of the job's log, in which Slurm may say why.
    """
    if job is not None and job.state == "CANCELLED":
        return explain_cancelled(job.cancelled_by)
    if job is not None and job.state == "FAILED" and not explain_log(log):
        return _explain_failure(job, log)
    return JobEnd(_explain_state(job, log), last_line(log))


def explain_cancelled(user: str) -> JobEnd:
    """Return the end of a job that a user cancelled; the name is empty if it is not known."""
    by = f" by {user}" if user else ""
    return JobEnd(f"its job was cancelled{by}", is_cancelled=True)


def _explain_state(job: JobState | None, log: str) -> str:
    if job is None:
        return explain_log(log) or "its job is no longer known to Slurm"
    if job.state in _REASONS:
        return _REASONS[job.state]
    node = f" ({job.nodes})" if job.nodes and job.nodes != "None assigned" else ""
    if job.state == "NODE_FAIL":
        return NODE_FAILED + node
    if job.state == "BOOT_FAIL":
        return f"its node did not start{node}"
    said = explain_log(log) if job.state == "FAILED" else None
    return said or f"its job ended as {job.state}"


def explain_log(log: str) -> str | None:
    """Return what the last messages of Slurm or the batch script in a log say of a job's end."""
    for line in reversed(log.splitlines()):
        if line.startswith(_SLURM):
            for pattern, reason in _LOG_MESSAGES:
                if pattern.search(line):
                    return reason
    return None


def last_line(log: str) -> str:
    """Return the last line of a log that is not blank, without control characters and secrets.

    What Slurm says of a job's end is in the reason, and what the job said before it tells more.
    """
    texts = [" ".join(_UNPRINTABLE.sub(" ", line).split()) for line in log.splitlines()]
    said = [text for text in texts if text]
    by_job = [text for text in said if not text.startswith(_SLURM)]
    return shorten_end(redact((by_job or said or [""])[-1]), _LONGEST_LINE)


def _explain_failure(job: JobState, log: str) -> JobEnd:
    number = job.signal or (job.exit_code - 128 if job.exit_code in _SIGNALLED else 0)
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else ""
        told = f"its job was killed by signal {number}" + (f" ({name})" if name else "")
        if number == signal.SIGKILL:
            told += ", probably for lack of memory"
        return JobEnd(told, last_line(log))
    reason = f"its job ended with status {job.exit_code}"
    lines = [" ".join(line.split()) for line in log.splitlines()[-_TROUBLE_LINES:]]
    for pattern, trouble in _TROUBLES:
        if found := [line for line in lines if pattern.search(line)]:
            return JobEnd(f"{reason}: {trouble}", last_line(found[-1]))
    # A worker ends with it also if it cannot write its results.
    if job.exit_code == ExitStatus.TRY_AGAIN:
        return JobEnd("its job got a signal to stop", last_line(log))
    return JobEnd(reason, last_line(log))
