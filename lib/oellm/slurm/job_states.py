"""What Slurm says about jobs: whether they wait, run or have ended, and why.

squeue also knows the jobs that ended within the last minutes (Slurm's MinJobAge), with their exit
status. sacct, on clusters with accounting, knows all jobs, with their steps and who cancelled them.
"""

from __future__ import annotations

import datetime
import pwd
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from oellm.errors import OellmError
from oellm.slurm.clusters import OWN, cluster_option
from oellm.slurm.commands import call_slurm

# The columns of sacct. The comment comes last, since only it may hold the separator.
_ACCOUNTS = ("JobID", "State", "ExitCode", "NodeList", "Start", "End", "Submit", "Comment")
RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"})
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"}
    | {"RESIZING", "SPECIAL_EXIT", "STOPPED", "SUSPENDED"}
)
ACTIVE = RUNNING | WAITING
# What Slurm prints for a job without a comment.
_NO_COMMENT = ("", "(null)")
# How far clocks and time zones may differ.
_CLOCKS_DIFFER = datetime.timedelta(hours=2)


class ArrayTask(NamedTuple):
    """An element of a job array as Slurm counts it.

    Attributes:
        job_id: The number of the array.
        array_index: Which of its elements.
        cluster: The cluster that has it, OWN for the login node's.
        comment: The comment of the array; another array may have had the same number.
    """

    job_id: int
    array_index: int
    cluster: str = OWN
    comment: str = ""

    def __str__(self) -> str:
        # As sbatch writes it.
        return f"{self.job_id}_{self.array_index}" + (f";{self.cluster}" if self.cluster else "")


class SlurmJob(NamedTuple):
    """A job array that was submitted.

    Slurm gives numbers again: after it was set up anew, after MaxJobId, or on another cluster. So
    its number alone does not tell that a job is this one; the comment does.

    Attributes:
        job_id: Its number.
        comment: The comment that sbatch was given.
        submitted: When it was submitted.
        cluster: The cluster that has it, OWN for the login node's.
    """

    job_id: int
    comment: str
    submitted: datetime.datetime
    cluster: str = OWN

    def has_comment(self, comment: str) -> bool:
        """Return whether a job with this number and that comment, as Slurm prints it, is this one.

        A site may add something to comments.
        """
        return self.comment in comment if self.comment else comment in _NO_COMMENT

    def is_accounted_as(self, comment: str, submitted: datetime.datetime | None) -> bool:
        """Return the same of a job of the accounting, which does not keep comments at all sites."""
        if comment not in _NO_COMMENT or submitted is None:
            return self.has_comment(comment)
        return submitted > self.submitted - _CLOCKS_DIFFER


# Job arrays by their numbers, the newest first.
JobsByNumber = Mapping[int, Sequence[SlurmJob]]


def by_cluster(jobs: Iterable[SlurmJob]) -> dict[str, JobsByNumber]:
    """Return the jobs of each cluster."""
    clusters: dict[str, dict[int, list[SlurmJob]]] = {}
    for job in sorted(jobs, key=lambda job: job.submitted, reverse=True):
        clusters.setdefault(job.cluster, {}).setdefault(job.job_id, []).append(job)
    return dict(clusters)


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
        end: When it ended, or will end at the latest.
        cancelled_by: Who cancelled it; empty if nobody did, or Slurm does not know.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    exit_code: int = 0
    signal: int = 0
    restarts: int = 0
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None
    cancelled_by: str = ""


def ask_accounting(jobs: Iterable[SlurmJob]) -> dict[ArrayTask, JobState]:
    """Ask sacct about job arrays.

    The answer lacks those whose number is another job's. Raises MachineError if sacct is missing
    or silent, OellmError if it fails; it also fails if there is no accounting.
    """
    states: dict[ArrayTask, JobState] = {}
    for cluster, members in by_cluster(jobs).items():
        listed = ",".join(map(str, sorted(members)))
        columns = ("--noheader", "--parsable2", f"--format={','.join(_ACCOUNTS)}")
        answer = call_slurm(["sacct", *cluster_option(cluster), *columns, f"--jobs={listed}"])
        for task, state in parse_accounting(answer, members).items():
            states[task] = state._replace(cancelled_by=_user_name(state.cancelled_by))
    return states


def parse_accounting(text: str, jobs: JobsByNumber) -> dict[ArrayTask, JobState]:
    """Read the answer of sacct about jobs; if a step ran out of memory, its job did.

    `cancelled_by` is a user's number. Raises OellmError if the text is something else.
    """
    states: dict[ArrayTask, JobState] = {}
    for line in text.splitlines():
        fields = line.split("|", len(_ACCOUNTS) - 1)
        is_whole = len(fields) == len(_ACCOUNTS)
        exit_match = re.fullmatch("([0-9]+):([0-9]+)", fields[2]) if is_whole else None
        if exit_match is None:
            raise OellmError(f"sacct: expected a job's fields, got {line!r}")
        # This skips jobs that are no array, and elements that wait together: 4711_[3-9].
        place = re.fullmatch(r"([0-9]+)_([0-9]+)(\..+)?", fields[0])
        if place is None:
            continue
        job_id, comment, submitted = int(place[1]), fields[7], parse_time(fields[6])
        ours = (j for j in jobs.get(job_id, ()) if j.is_accounted_as(comment, submitted))
        if (job := next(ours, None)) is None:
            continue
        task = ArrayTask(job_id, int(place[2]), cluster=job.cluster, comment=job.comment)
        state, _, by = fields[1].partition(" by ")
        if place[3] is None:
            states[task] = JobState(
                state=state,
                nodes=fields[3],
                exit_code=int(exit_match[1]),
                signal=int(exit_match[2]),
                start=parse_time(fields[4]),
                end=parse_time(fields[5]),
                cancelled_by=by,
            )
        elif state == "OUT_OF_MEMORY" and task in states:
            states[task] = states[task]._replace(state=state)
    return states


def parse_time(text: str) -> datetime.datetime | None:
    """Return a time that Slurm prints, in local time; None for N/A and Unknown."""
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        return None


def _user_name(number: str) -> str:
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError):
        return number
