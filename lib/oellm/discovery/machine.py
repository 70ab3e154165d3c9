"""What a login node tells about its machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oellm.clusters.runtime import which_runtime
from oellm.core.paths import group_names, user_name
from oellm.discovery.login_hosts import own_host_name
from oellm.discovery.partition_views import PartitionView, partition_views
from oellm.discovery.slurm_facts import SlurmFacts, ask_facts
from oellm.discovery.storage import Storage, find_storage
from oellm.errors import MachineError
from oellm.slurm.notation import split_names

_MODULES = ("apptainer", "singularity", "singularity-ce", "singularityce", "singularitypro")
_COMMANDS = ("scontrol", "sinfo", "sbatch", "squeue")


@dataclass
class Machine:
    """A machine with Slurm, seen from a login node.

    Attributes:
        host: The name of this login node.
        groups: The groups of the user.
        facts: What Slurm says.
        views: Its partitions.
        storage: Directories in which the user may write, the best one first.
        runtime: The container runtime that is on PATH here; empty if there is none.
        module: The environment module that has one; empty if none is known.
        environ: The environment variables.
    """

    host: str
    groups: list[str]
    facts: SlurmFacts
    views: list[PartitionView]
    storage: list[Storage]
    runtime: str = ""
    module: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)

    def view(self, name: Any) -> PartitionView | None:
        """Return the partition of a name, or the first known of a list; None if there is none."""
        wanted = split_names(str(name or ""))
        known = {view.name: view for view in self.views}
        return next((known[each] for each in wanted if each in known), None)

    def accounts(self) -> list[str]:
        """Return the user's accounts, none if they are not known."""
        return list(dict.fromkeys(each.account for each in self.facts.associations or []))

    def qos_names(self) -> list[str]:
        """Return the QOS that the user has in any account, none if they are not known."""
        known = (name for each in self.facts.associations or [] for name in each.qos_names())
        return list(dict.fromkeys(known))


def look_at_machine(environ: Mapping[str, str]) -> Machine:
    """Ask Slurm and the file system what this machine is.

    Raises MachineError if it has no Slurm: then it needs no entry.
    """
    if not any(shutil.which(name) for name in _COMMANDS):
        raise MachineError(
            "this machine has no Slurm (sbatch, sinfo and scontrol are not on PATH), so there is "
            "nothing to propose: oellm runs here as the cluster `local`, which needs no entry"
        )
    user, groups = user_name(), group_names()
    facts = ask_facts(user)
    found = which_runtime()
    return Machine(
        host=own_host_name(),
        groups=groups,
        facts=facts,
        views=partition_views(facts),
        storage=find_storage(environ, [user, *groups]),
        runtime=found,
        module="" if found else find_module(environ),
        environ=environ,
    )


def find_module(environ: Mapping[str, str]) -> str:
    """Return the environment module of a container runtime; empty if there is none."""
    for directory in environ.get("MODULEPATH", "").split(":"):
        for name in _MODULES:
            if directory and os.path.exists(os.path.join(directory, name)):
                return name
            if directory and os.path.exists(os.path.join(directory, f"{name}.lua")):
                return name
    return ""
