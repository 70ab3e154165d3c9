"""How many more array elements the queue takes: by our own limit, and by Slurm's."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from oellm.core.paths import user_name
from oellm.errors import OellmError
from oellm.runs.run_directory import Run
from oellm.slurm import commands
from oellm.slurm.commands import QueuedElement


class Limit(NamedTuple):
    """How many elements of one user may be in the queue; those of one account or QOS, if named."""

    name: str
    most: int
    account: str = ""
    qos: str = ""

    def room(self, queue: Sequence[QueuedElement]) -> int:
        """Return how many more there may be, never less than 0."""
        counted = sum(
            self.account in ("", element.account) and self.qos in ("", element.qos)
            for element in queue
        )
        return max(0, self.most - counted)


class Association(NamedTuple):
    """What the accounting says of the user in one account; empty where it says nothing."""

    account: str
    partition: str
    default_qos: str
    most: str


class QueueRules(NamedTuple):
    """What bounds a submission."""

    limits: list[Limit]
    # An array index is smaller; None where Slurm does not say.
    array_size: int | None


def rules(run: Run, queue_limit: int | None, report: commands.Report) -> QueueRules:
    """Ask Slurm what bounds the submissions of a run.

    `queue_limit` counts instead of the run's setting. Where there is no accounting, or it does
    not answer, its limits are not known. Raises what slurm.ask raises.
    """
    told = commands.parse_configuration(commands.ask(["scontrol", "show", "config"], report))
    size = told.get("MaxArraySize", "")
    limits = []
    most = queue_limit or run.setting("queue_limit")
    if most:
        limits.append(Limit("queue_limit", int(most)))
    # Most clusters have accounting, and sbatch has the last word where it does not answer.
    with contextlib.suppress(OellmError):
        limits += _accounting_limits(run, told.get("ClusterName", ""))
    return QueueRules(limits, int(size) if size.isdecimal() and int(size) else None)


def _accounting_limits(run: Run, cluster: str) -> list[Limit]:
    show = ["sacctmgr", "--noheader", "--parsable2", "show"]
    asked = [f"user={user_name()}", f"cluster={cluster}"]
    columns = "format=Account,Partition,DefaultQOS,MaxSubmitJobs"
    answer = commands.call([*show, "associations", *asked, columns])
    associations = [
        association
        for association in parse_associations(answer)
        if run.setting("account") in (None, "", association.account)
        and association.partition in ("", run.setting("partition"))
    ]
    if len({association.account for association in associations}) != 1:
        # Which one Slurm would charge is not ours to guess.
        return []
    limits = [
        Limit(f"MaxSubmitJobs of account {account}", int(most), account=account)
        for account, _, _, most in associations
        if most.isdecimal()
    ]
    qos = run.setting("qos") or associations[0].default_qos
    most = commands.call([*show, "qos", f"name={qos}", "format=MaxSubmitPU"]).strip() if qos else ""
    if most.isdecimal():
        limits.append(Limit(f"MaxSubmitJobsPerUser of QOS {qos}", int(most), qos=qos))
    return limits


def parse_associations(text: str) -> list[Association]:
    """Read `sacctmgr --parsable2 show associations` with the columns of an Association."""
    lines = (line.split("|") for line in text.splitlines())
    return [Association(*cells) for cells in lines if len(cells) == len(Association._fields)]
