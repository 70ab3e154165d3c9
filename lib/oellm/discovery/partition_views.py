"""Partitions as a user of GPUs sees them: what they have, who may use them, which is best."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oellm.core.display import format_count
from oellm.discovery.gpu_makers import is_slice
from oellm.discovery.slurm_facts import SlurmFacts
from oellm.slurm.accounting import is_among
from oellm.slurm.gres import GpuCount, parse_tres_gpus
from oellm.slurm.notation import parse_count, parse_time_limit
from oellm.slurm.partitions import NodeGroup, PartitionRules

# Partitions for short tests, for parts of nodes, or whose jobs make way for those of others.
_FOR_TESTS = re.compile(r"debug|dbg|devel|test|interact|mig|preempt|scavenge|requeue|visual")
_TOKENS_FOR_TESTS = frozenset(("dev", "vis", "viz", "low", "short", "login", "serial"))
_FOR_CPUS = frozenset(("cpu", "cpus", "cpuonly", "nogpu"))


@dataclass(frozen=True)
class PartitionView:
    """A partition: its rules, and its nodes by kind."""

    rules: PartitionRules
    groups: tuple[NodeGroup, ...]

    @classmethod
    def unknown(cls, name: str) -> PartitionView:
        """Return a partition of which nothing but the name is known."""
        return cls(PartitionRules({"PartitionName": name}), ())

    def without_gpus(self) -> PartitionView:
        """Return the partition as somebody sees it who uses none of its GPUs."""
        values = {key: value for key, value in self.rules.values.items() if key != "TRES"}
        groups = tuple(group._replace(gpus=[]) for group in self.groups)
        return PartitionView(PartitionRules(values), groups)

    @property
    def name(self) -> str:
        """Return its name."""
        return self.rules.name

    @property
    def with_gpus(self) -> tuple[NodeGroup, ...]:
        """Return the nodes that have GPUs."""
        return tuple(group for group in self.groups if group.gpus)

    @property
    def gpus(self) -> GpuCount | None:
        """Return the GPUs of the most nodes that have any; None without GPUs."""
        counted: Counter[GpuCount] = Counter()
        for group in self.with_gpus:
            counted[group.gpus[0]] += group.nodes
        if counted:
            return counted.most_common(1)[0][0]
        # Without an answer of sinfo, some sites let scontrol tell the GPUs of all nodes.
        nodes = parse_count(self.rules.text("TotalNodes"))
        total = 0 if self.groups else parse_tres_gpus(self.rules.text("TRES"))
        return GpuCount("", total // nodes) if total and nodes else None

    @property
    def typical(self) -> NodeGroup | None:
        """Return the nodes for which a job is made: those with the GPUs of the most nodes."""
        gpus = self.gpus
        alike = [group for group in self.groups if not gpus or group.gpus[:1] == [gpus]]
        return max(alike, key=lambda group: (group.is_usable, group.nodes), default=None)

    @property
    def kinds(self) -> list[str]:
        """Return the types of its GPUs."""
        found = (gpus.kind for group in self.with_gpus for gpus in group.gpus)
        return list(dict.fromkeys(filter(None, found)))

    @property
    def is_default(self) -> bool:
        """Return whether jobs that name no partition go there."""
        return self.rules.says("Default", "YES") or any(group.is_default for group in self.groups)

    @property
    def is_up(self) -> bool:
        """Return whether it takes jobs."""
        said = self.rules.values.get("State")
        return said == "UP" if said else any(group.is_up for group in self.groups)

    @property
    def is_exclusive(self) -> bool:
        """Return whether a job gets whole nodes there."""
        return self.rules.says("OverSubscribe", "EXCLUSIVE") or self.rules.says(
            "Shared", "EXCLUSIVE"
        )

    @property
    def is_for_tests(self) -> bool:
        """Return whether its name says that it is not for long work."""
        name = self.name.lower()
        return bool(_FOR_TESTS.search(name)) or not _TOKENS_FOR_TESTS.isdisjoint(_tokens(name))

    @property
    def is_for_cpus(self) -> bool:
        """Return whether it has no GPUs, or a name that says so."""
        return not self.gpus or not _FOR_CPUS.isdisjoint(_tokens(self.name.lower()))

    @property
    def limit_s(self) -> int | None:
        """Return its time limit in seconds; None if there is none, or it is unknown."""
        said = self.rules.values.get("MaxTime") or next((each.limit for each in self.groups), "")
        return parse_time_limit(said)

    @property
    def usable_nodes(self) -> int:
        """Return how many of the nodes for which it is chosen take jobs."""
        groups = self.with_gpus or self.groups
        known = sum(group.nodes for group in groups if group.is_usable)
        return known if groups else parse_count(self.rules.text("TotalNodes"))

    def refuses(self, accounts: Sequence[str], qos: Sequence[str], groups: Sequence[str]) -> bool:
        """Return whether none of these may use it; a list that is empty is unknown."""
        for what, owned in (("Accounts", accounts), ("Qos", qos), ("Groups", groups)):
            mine = [each for each in owned if not is_among(each, self.rules.denied(what))]
            allowed = self.rules.allowed(what)
            if owned and not any(not allowed or is_among(each, allowed) for each in mine):
                return True
        return False

    def describe(self) -> str:
        """Return what it has: `88 nodes of 4×h100, 5-00:00:00 at most`."""
        groups = self.with_gpus or self.groups
        nodes = sum(group.nodes for group in groups) or parse_count(self.rules.text("TotalNodes"))
        text = format_count(nodes, "node")
        if self.gpus:
            text += f" of {self.gpus}"
        if idle := nodes - self.usable_nodes:
            text += f" ({idle} out of use)"
        if self.is_exclusive:
            text += ", whole nodes"
        return text


def partition_views(facts: SlurmFacts) -> list[PartitionView]:
    """Return the partitions that scontrol or sinfo know."""
    rules = {each.name: each for each in facts.partitions}
    for group in facts.nodes:
        rules.setdefault(group.partition, PartitionRules({"PartitionName": group.partition}))
    return [
        PartitionView(each, tuple(group for group in facts.nodes if group.partition == name))
        for name, each in rules.items()
    ]


def rank_for_gpus(views: Iterable[PartitionView]) -> list[PartitionView]:
    """Return the partitions with GPUs, the best one for evaluations first."""

    def worth(view: PartitionView) -> tuple[object, ...]:
        gpus = view.gpus.number if view.gpus else 0
        is_whole = not is_slice(view.gpus.kind if view.gpus else "")
        return (
            *(view.is_up, not view.is_for_cpus, not view.is_for_tests, is_whole),
            *(view.usable_nodes > 0, not view.is_exclusive, view.is_default),
            gpus * view.usable_nodes,
        )

    return sorted((view for view in views if view.gpus), key=worth, reverse=True)


def rank_for_cpus(views: Iterable[PartitionView]) -> list[PartitionView]:
    """Return the partitions for work without a GPU, the best one first."""

    def worth(view: PartitionView) -> tuple[object, ...]:
        return (
            *(view.is_up, not view.is_for_tests, not view.gpus, view.usable_nodes > 0),
            *(not view.is_exclusive, view.is_default, view.usable_nodes),
        )

    return sorted((view for view in views if view.is_for_cpus), key=worth, reverse=True)


def _tokens(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name)
