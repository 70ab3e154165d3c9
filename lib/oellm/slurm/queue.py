"""Slurm's queue: one call of squeue, one parser, and two views of its answer.

oe-submit looks at all jobs of the user, since all count towards limits; oe-status looks at the
jobs of one run, also at those that ended a few minutes ago.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.slurm.commands import ask_slurm, call_slurm
from oellm.slurm.job_states import ArrayTask, JobState, parse_time

# The comment comes last, since only it may hold the separator.
_FIELDS = (
    *("ArrayJobID", "ArrayTaskID", "State", "Reason", "NodeList", "exit_code", "RestartCnt"),
    *("StartTime", "Account", "QOS", "Comment"),
)
_FORMAT = ",".join(f"{field}:|" for field in _FIELDS)
_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True)
class QueuedElement:
    """A job, or an element of a job array, that squeue shows.

    Attributes:
        job_id: The number of the job, or of the whole array.
        index: The array index; None if the job is no array.
        state: What it does.
        account: The account that it is charged to.
        qos: Its quality of service.
        comment: The comment that sbatch was given.
    """

    job_id: int
    index: int | None
    state: JobState
    account: str = ""
    qos: str = ""
    comment: str = ""


def ask_queue(log: Log, *, recent: bool = False) -> list[QueuedElement]:
    """Return this user's jobs in the queue, each array element by itself.

    With `recent`, also those that ended so recently that Slurm still knows them. Raises what
    `ask_slurm` raises.
    """
    states = ["--states=all"] if recent else []
    return parse_queue(ask_slurm(_squeue("--me", "--all", *states), log))


def ask_job_states(job_ids: Iterable[int]) -> dict[ArrayTask, JobState]:
    """Ask squeue once about job arrays; the answer lacks those that Slurm has forgotten.

    Raises MachineError if squeue is missing or silent, OellmError if it fails.
    """
    listed = ",".join(map(str, sorted(job_ids)))
    try:
        answer = call_slurm(_squeue("--states=all", f"--jobs={listed}"))
    except OellmError as error:
        # squeue says so if it was asked about one job only.
        if "Invalid job id" in str(error):
            return {}
        raise
    return {
        ArrayTask(element.job_id, element.index): element.state
        for element in parse_queue(answer)
        if element.index is not None
    }


def parse_queue(text: str) -> list[QueuedElement]:
    """Read the answer of squeue; raises OellmError if it is something else."""
    return list(map(_parse_element, text.splitlines()))


def _squeue(*selection: str) -> list[str]:
    return ["squeue", "--noheader", "--array", *selection, f"--Format={_FORMAT}"]


def _parse_element(line: str) -> QueuedElement:
    fields = line.strip().split("|", len(_FIELDS) - 1)
    numbers = (fields[0], fields[5], fields[6]) if len(fields) == len(_FIELDS) else ("",)
    if not all(map(_NUMBER.fullmatch, numbers)):
        raise OellmError(f"squeue: expected a job's fields, got {line!r}")
    job_id, index, state, reason, nodes, status, restarts, start, account, qos, comment = fields
    return QueuedElement(
        job_id=int(job_id),
        index=int(index) if _NUMBER.fullmatch(index) else None,
        state=JobState(
            state=state,
            reason=reason,
            nodes=nodes,
            # The status is encoded as waitpid returns it.
            exit_code=int(status) >> 8,
            signal=int(status) & 0x7F,
            restarts=int(restarts),
            start=parse_time(start),
        ),
        account=account,
        qos=qos,
        comment=comment.removesuffix("|"),
    )
