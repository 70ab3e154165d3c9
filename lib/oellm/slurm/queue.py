"""Slurm's queue: one call of squeue, one parser, and two views of its answer.

oe-submit looks at all jobs of the user, since all count towards limits; oe-status looks at the
jobs of one run, also at those that ended a few minutes ago.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.slurm.clusters import OWN, cluster_option
from oellm.slurm.commands import JobNumber, ask_slurm, call_slurm
from oellm.slurm.job_states import ArrayTask, JobState, SlurmJob, by_cluster, parse_time

# The comment comes last, since only it may hold the separator.
_FIELDS = (
    *("ArrayJobID", "ArrayTaskID", "State", "Reason", "NodeList", "exit_code", "RestartCnt"),
    *("StartTime", "EndTime", "Account", "QOS", "Comment"),
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
        cluster: The Slurm cluster whose queue it is in, OWN for that of the login node.
    """

    job_id: int
    index: int | None
    state: JobState
    account: str = ""
    qos: str = ""
    comment: str = ""
    cluster: str = OWN


def ask_queue(
    log: Log, clusters: Iterable[str] = (OWN,), *, recent: bool = False
) -> list[QueuedElement]:
    """Return this user's jobs in the queues of clusters, each array element by itself.

    With `recent`, also those that ended so recently that Slurm still knows them. Raises what
    `ask_slurm` raises.
    """
    states = ["--states=all"] if recent else []
    return [
        element
        for cluster in clusters
        for element in parse_queue(
            ask_slurm(_squeue(cluster, "--me", "--all", *states), log), cluster
        )
    ]


def ask_comment(number: JobNumber, comment: str, log: Log) -> str:
    """Return the comment of a job that was submitted just now with this one.

    A site may replace comments. If Slurm does not tell, it is the one that sbatch was given.
    """
    try:
        queue = ask_queue(log, [number.cluster], recent=True)
    except OellmError:
        # The job is submitted all the same.
        return comment
    comments = {queued.comment for queued in queue if queued.job_id == number.job_id}
    found = comments.pop() if len(comments) == 1 else comment
    return comment if comment in found else found


def ask_job_states(jobs: Iterable[SlurmJob]) -> dict[ArrayTask, JobState]:
    """Ask squeue once per cluster about job arrays.

    The answer lacks those that Slurm has forgotten, and those whose number is another job's now.
    Raises MachineError if squeue is missing or silent, OellmError if it fails.
    """
    states: dict[ArrayTask, JobState] = {}
    for cluster, members in by_cluster(jobs).items():
        for element in _ask_about(cluster, list(members)):
            ours = (job for job in members[element.job_id] if job.has_comment(element.comment))
            if element.index is not None and (job := next(ours, None)) is not None:
                task = ArrayTask(job.job_id, element.index, cluster=cluster, comment=job.comment)
                states[task] = element.state
    return states


def _ask_about(cluster: str, job_ids: Sequence[int]) -> list[QueuedElement]:
    """Return the elements of jobs, with those that have ended if Slurm still knows them."""
    listed = ",".join(map(str, sorted(job_ids)))
    try:
        answer = call_slurm(_squeue(cluster, "--states=all", f"--jobs={listed}"))
    except OellmError as error:
        # squeue says so if it was asked about one job only.
        if "Invalid job id" in str(error):
            return []
        raise
    return [element for element in parse_queue(answer, cluster) if element.job_id in job_ids]


def parse_queue(text: str, cluster: str = OWN) -> list[QueuedElement]:
    """Read the answer of squeue; raises OellmError if it is something else."""
    # Some versions print the name of a cluster that was asked for above its jobs.
    lines = text.splitlines()
    if cluster:
        lines = [line for line in lines if line.strip() not in ("", f"CLUSTER: {cluster}")]
    return [replace(_parse_element(line), cluster=cluster) for line in lines]


def _squeue(cluster: str, *selection: str) -> list[str]:
    selected = [*cluster_option(cluster), *selection]
    return ["squeue", "--noheader", "--array", *selected, f"--Format={_FORMAT}"]


def _parse_element(line: str) -> QueuedElement:
    fields = line.strip().split("|", len(_FIELDS) - 1)
    numbers = (fields[0], fields[5], fields[6]) if len(fields) == len(_FIELDS) else ("",)
    if not all(map(_NUMBER.fullmatch, numbers)):
        raise OellmError(f"squeue: expected a job's fields, got {line!r}")
    job_id, index, state, reason, nodes, status, restarts, *times, account, qos, comment = fields
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
            start=parse_time(times[0]),
            end=parse_time(times[1]),
        ),
        account=account,
        qos=qos,
        comment=comment.removesuffix("|"),
    )
