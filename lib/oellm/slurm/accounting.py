"""What Slurm's accounting says about a user: accounts, QOS, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from oellm.slurm.commands import call_slurm
from oellm.slurm.notation import split_names

Ask = Callable[[Sequence[str]], str]

_SHOW = ("sacctmgr", "--noheader", "--parsable2", "show")


def is_among(name: str, names: Iterable[str]) -> bool:
    """Return whether an account or QOS is one of some.

    The accounting keeps names in small letters, whatever people write.
    """
    return name.lower() in map(str.lower, names)


class Association(NamedTuple):
    """What the accounting says about a user in one account; a field is empty if unknown."""

    account: str
    partition: str
    default_qos: str
    max_submit_jobs: str
    max_wall: str
    qos: str

    def qos_names(self) -> list[str]:
        """Return the QOS that the user may name."""
        return split_names(self.qos)


class QosLimits(NamedTuple):
    """What a QOS bounds; a field is empty if it does not."""

    name: str
    max_submit_jobs: str
    max_wall: str


def ask_associations(user: str, cluster: str, ask: Ask = call_slurm) -> list[Association]:
    """Return the associations of a user with a cluster, by its ClusterName; raises as `ask`.

    Without a name, those with all clusters.
    """
    columns = "format=Account,Partition,DefaultQOS,MaxSubmitJobs,MaxWall,QOS"
    selection = [f"user={user}", *([f"cluster={cluster}"] if cluster else [])]
    return parse_associations(ask([*_SHOW, "associations", *selection, columns]))


def parse_associations(text: str) -> list[Association]:
    """Read the lines of sacctmgr that `ask_associations` asks for."""
    lines = (line.split("|") for line in text.splitlines())
    return [Association(*cells) for cells in lines if len(cells) == len(Association._fields)]


def ask_default_account(user: str, ask: Ask = call_slurm) -> str:
    """Return the account that is charged if a job names none; empty if Slurm names none."""
    return ask([*_SHOW, "user", f"name={user}", "format=DefaultAccount"]).strip()


def ask_qos_limits(names: Iterable[str], ask: Ask = call_slurm) -> list[QosLimits]:
    """Return the limits of some QOS; raises as `ask`."""
    chosen = f"name={','.join(names)}"
    lines = ask([*_SHOW, "qos", chosen, "format=Name,MaxSubmitPU,MaxWall"]).splitlines()
    cells = [line.split("|") for line in lines]
    return [QosLimits(*parts) for parts in cells if len(parts) == len(QosLimits._fields)]
