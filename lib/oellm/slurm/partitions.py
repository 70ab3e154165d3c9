"""Partitions and their nodes, as scontrol and sinfo describe them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from oellm.slurm.clusters import cluster_option
from oellm.slurm.commands import call_slurm
from oellm.slurm.gres import GpuCount, parse_gpus
from oellm.slurm.notation import parse_count, split_names

Ask = Callable[[Sequence[str]], str]

# A federation would answer for other clusters, too.
_LOCAL = "--local"
_COLUMNS = ("%R", "%P", "%l", "%a", "%D", "%c", "%m", "%G", "%t", "%f", "%N")
# Compact states of nodes that take no jobs now, before the marks that sinfo appends.
_OUT_OF_USE = re.compile(r"(down|drain|drng|drained|fail|failg|maint|inval|unk|fut|err)\b")
_EVERYTHING = "ALL"


class PartitionRules(NamedTuple):
    """What `scontrol show partition` says of a partition, by Slurm's names."""

    values: dict[str, str]

    @property
    def name(self) -> str:
        """Return the name of the partition."""
        return self.values.get("PartitionName", "")

    def says(self, key: str, *answers: str) -> bool:
        """Return whether a value is one of some answers, in any case of letters."""
        return self.values.get(key, "").upper() in {answer.upper() for answer in answers}

    def text(self, key: str) -> str:
        """Return a value, empty for one that says that there is none."""
        value = self.values.get(key, "")
        return "" if value.upper() in ("(NULL)", "N/A", "NONE", "UNLIMITED") else value

    def allowed(self, what: str) -> list[str] | None:
        """Return what may use it, of `Accounts`, `Groups` or `Qos`; None if all may."""
        text = self.text(f"Allow{what}")
        return None if not text or text.upper() == _EVERYTHING else split_names(text)

    def denied(self, what: str) -> list[str]:
        """Return what may not use it, of `Accounts` or `Qos`."""
        return split_names(self.text(f"Deny{what}"))


class NodeGroup(NamedTuple):
    """Nodes of one partition that are alike, in one state.

    Attributes:
        partition: The name of the partition.
        is_default: Whether jobs that name no partition go there.
        limit: The partition's time limit, as Slurm writes it.
        is_up: Whether the partition takes jobs.
        nodes: The number of nodes.
        cpus: CPUs of a node, as Slurm counts them.
        memory_mib: Memory of a node, in MiB.
        gpus: GPUs of a node.
        is_usable: Whether the nodes take jobs now, or will soon.
        features: Names that the site gave to the nodes.
        first_node: The name of one of them; empty if unknown.
    """

    partition: str
    is_default: bool
    limit: str
    is_up: bool
    nodes: int
    cpus: int
    memory_mib: int
    gpus: list[GpuCount]
    is_usable: bool
    features: list[str]
    first_node: str


def ask_partitions(
    ask: Ask = call_slurm, *, clusters: Iterable[str] = (), hidden: bool = False
) -> list[PartitionRules]:
    """Return the partitions of clusters, by default the login node's own; raises as `ask`.

    With `hidden`, also those that Slurm does not show to this user by itself.
    """
    place = cluster_option(*clusters) or [_LOCAL]
    shown = ["--all"] if hidden else []
    return parse_partitions(ask(["scontrol", *place, *shown, "--oneliner", "show", "partitions"]))


def parse_partitions(text: str) -> list[PartitionRules]:
    """Read `scontrol --oneliner show partitions`."""
    found = [PartitionRules(parse_pairs(line)) for line in text.splitlines()]
    return [rules for rules in found if rules.name]


def parse_pairs(line: str) -> dict[str, str]:
    """Read a line of `scontrol --oneliner`: words of the form `Name=value`."""
    pairs = (word.partition("=") for word in line.split())
    return {name: value for name, equals, value in pairs if equals}


def ask_nodes(ask: Ask = call_slurm) -> list[NodeGroup]:
    """Return the nodes of all partitions, alike ones together; raises as `ask`."""
    columns = "|".join(_COLUMNS)
    return parse_nodes(ask(["sinfo", _LOCAL, "--exact", "--noheader", "-o", columns]))


def parse_nodes(text: str) -> list[NodeGroup]:
    """Read the lines of sinfo that `ask_nodes` asks for; others (`CLUSTER: x`) are left out."""
    groups = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(_COLUMNS):
            continue
        name, starred, limit, is_up, nodes, cpus, memory, gres, state, features, names = cells
        groups.append(
            NodeGroup(
                partition=name,
                is_default=starred.endswith("*"),
                limit=limit,
                is_up=is_up.startswith("up"),
                nodes=_leading_number(nodes),
                cpus=_leading_number(cpus),
                memory_mib=_leading_number(memory),
                gpus=parse_gpus(gres),
                is_usable=not _OUT_OF_USE.match(state),
                features=[] if features == "(null)" else split_names(features),
                first_node=first_host(names),
            )
        )
    return groups


def ask_node_details(names: Iterable[str], ask: Ask = call_slurm) -> dict[str, dict[str, str]]:
    """Return what `scontrol show node` says of some nodes, by Slurm's names; raises as `ask`."""
    text = ask(["scontrol", _LOCAL, "--oneliner", "show", "node", ",".join(names)])
    described = [parse_pairs(line) for line in text.splitlines()]
    return {pairs["NodeName"]: pairs for pairs in described if "NodeName" in pairs}


def first_host(names: str) -> str:
    """Return the first of a host list: `n001` of `n[001-010,012],login1`."""
    head = re.match(r"(?:[^,\[\]]|\[[^\]]*\])*", names)
    first = head[0] if head else ""
    return re.sub(r"\[([^-,\]]*)[^\]]*\]", r"\1", first)


def _leading_number(text: str) -> int:
    """Return the number at the beginning of a text; sinfo writes `128+` for at least 128."""
    match = re.match("[0-9]+", text)
    return parse_count(match[0] if match else "")
