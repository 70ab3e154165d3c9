"""Settings that a partition and its nodes decide: time, GPUs, cores, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from oellm.core.display import format_count
from oellm.discovery.accounts import wall_limits
from oellm.discovery.machine import Machine
from oellm.discovery.partition_views import PartitionView
from oellm.discovery.proposed_setting import Alternative, ProposedSetting, alternatives
from oellm.slurm.gres import GpuCount
from oellm.slurm.notation import format_time_limit, parse_count, parse_time_limit
from oellm.slurm.partitions import NodeGroup

_DEFAULT_TIME = "24:00:00"
# The part of a node's memory that jobs get: the system needs the rest.
_MEMORY_FOR_JOBS = 0.95


def propose_time_limit(
    machine: Machine, view: PartitionView, *, account: str, qos: str
) -> Iterator[ProposedSetting]:
    """Yield the setting time_limit: the least of the limits of partition, account and QOS."""
    limits = [(view.limit_s, f"MaxTime of the partition {view.name}")]
    limits += [
        (parse_time_limit(text), f"{origin} (sacctmgr)")
        for text, origin in wall_limits(machine, view, account=account, qos=qos)
    ]
    known = [(seconds, origin) for seconds, origin in limits if seconds]
    if known:
        seconds, origin = min(known)
        yield ProposedSetting("time_limit", format_time_limit(seconds), origin)
    else:
        origin = "a day: Slurm names no limit" if view.groups or view.rules.values else "a day"
        yield ProposedSetting("time_limit", _DEFAULT_TIME, origin)


def propose_node_settings(machine: Machine, view: PartitionView) -> Iterator[ProposedSetting]:
    """Yield the settings that the nodes of a partition decide; none if nothing is known of them."""
    if not view.groups and not view.gpus:
        yield ProposedSetting(
            "gpus_per_node", None, "the nodes of the partition are not known", is_open=True
        )
        return
    gpus = view.gpus
    if gpus is None:
        origin = f"nodes of {view.name} have no GPU among their generic resources (gres)"
        yield ProposedSetting("gpus_per_node", 0, origin)
        return
    yield _propose_count(view, gpus)
    is_mixed = len({each.kind for group in view.with_gpus for each in group.gpus}) > 1
    if is_mixed:
        names = alternatives(f"gpu:{kind}" for kind in view.kinds if kind != gpus.kind)
        origin = f"nodes of {view.name} have several types; most have this one"
        yield ProposedSetting("gpu_gres", gpus.gres(), origin, others=names)
    is_whole = _takes_whole_nodes(machine, view)
    if is_whole:
        yield ProposedSetting("whole_node", value=True, origin=is_whole)
    if (typical := view.typical) is None:
        return
    cores, where = _cores(machine, typical)
    if share := cores // gpus.number:
        yield ProposedSetting("cpus_per_gpu", share, f"{where}, {gpus.number} GPUs")
    if not is_whole:
        yield from _propose_memory(machine, view, gpus=gpus.number, cpus_per_gpu=share)


def _propose_count(view: PartitionView, gpus: GpuCount) -> ProposedSetting:
    counts: Counter[int] = Counter()
    for group in view.with_gpus:
        counts[group.gpus[0].number] += group.nodes
    others = tuple(
        Alternative(str(number), format_count(nodes, "node"))
        for number, nodes in counts.items()
        if number != gpus.number
    )
    kind = f"{gpus.kind}, " if gpus.kind else ""
    source = "sinfo" if view.groups else "TRES of scontrol"
    return ProposedSetting(
        "gpus_per_node", gpus.number, f"{kind}nodes of {view.name} ({source})", others=others
    )


def _takes_whole_nodes(machine: Machine, view: PartitionView) -> str:
    """Return why jobs get whole nodes; empty if they do not."""
    if view.is_exclusive:
        return f"OverSubscribe=EXCLUSIVE of the partition {view.name}"
    if machine.facts.configuration.get("SelectType", "").endswith("/linear"):
        return "SelectType=select/linear of this Slurm"
    return ""


def _cores(machine: Machine, group: NodeGroup) -> tuple[int, str]:
    """Return the cores that jobs get on a node, and how that is known."""
    details = machine.facts.details.get(group.first_node, {})
    given = parse_count(details.get("CPUEfctv") or details.get("CPUTot") or "")
    threads = parse_count(details.get("ThreadsPerCore", ""))
    if given and threads:
        cores = given // threads
        return cores, f"{cores} cores of {group.first_node} for jobs"
    return group.cpus, f"{group.cpus} CPUs of a node"


def _propose_memory(
    machine: Machine, view: PartitionView, *, gpus: int, cpus_per_gpu: int
) -> Iterator[ProposedSetting]:
    """Yield an option of sbatch, if by default a GPU's job gets much less memory than its share.

    Without any default, Slurm would give all of the node's memory to a job of one GPU.
    """
    typical = view.typical
    if typical is None or not typical.memory_mib:
        return
    share = int(typical.memory_mib * _MEMORY_FOR_JOBS / gpus)
    default = _default_memory(machine, view, cpus_per_gpu)
    if default is None:
        reason = "Slurm has no default, and would give a job all of it"
    elif default < share // 2:
        reason = f"by default a job with one GPU has {default} MiB"
    else:
        return
    value = {"mem-per-gpu": f"{share}M"}
    origin = f"{typical.memory_mib} MiB of a node for {gpus} GPUs; {reason}"
    yield ProposedSetting("sbatch", value, origin)


def _default_memory(machine: Machine, view: PartitionView, cpus_per_gpu: int) -> int | None:
    """Return the MiB that a job with one GPU has by default; None if all of the node's."""
    for said in (view.rules.values, machine.facts.configuration):
        jobs = dict(
            pair.split("=", 1) for pair in said.get("JobDefaults", "").split(",") if "=" in pair
        )
        for text, factor in (
            (jobs.get("DefMemPerGPU", ""), 1),
            (said.get("DefMemPerCPU", ""), max(1, cpus_per_gpu)),
            (said.get("DefMemPerNode", ""), 1),
        ):
            if number := parse_count(text):
                return number * factor
    return None
