"""Settings that the login node decides: host names, directories, containers."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any

from oellm.clusters.cluster import known_clusters
from oellm.core.json_config import Node
from oellm.discovery.gpu_makers import AMD, NVIDIA, GpuMaker, find_maker
from oellm.discovery.login_hosts import host_pattern
from oellm.discovery.machine import Machine
from oellm.discovery.partition_views import PartitionView
from oellm.discovery.proposed_setting import Alternative, ProposedSetting, alternatives
from oellm.frameworks import runnable_names
from oellm.images.definitions import containers_directory, definition_names

_DIRECTORY = "oellm"


def propose_surroundings(
    machine: Machine, view: PartitionView, decided: Mapping[str, Any]
) -> Iterator[ProposedSetting]:
    """Yield the settings that do not depend on Slurm, or on the maker of its GPUs alone."""
    pattern = host_pattern(machine.host)
    others = alternatives([machine.host] if pattern != machine.host else [])
    origin = f"the name of this login node, {machine.host}"
    yield ProposedSetting("hostnames", [pattern], origin, others=others)
    yield _propose_base_directory(machine)
    runtime = machine.runtime or machine.module
    seen = f"{runtime or 'nothing'} on this login node; oellm doctor --job looks on a node"
    without = Alternative("none", "with a virtual environment: setting venv")
    yield ProposedSetting("container_runtime", "auto", seen, others=(without,))
    if decided.get("container_runtime") != "none":
        yield from _propose_containers(machine, view)
    elif not decided.get("venvs"):
        origin = "without a container: the directory of a virtual environment with oellm[hf]"
        yield ProposedSetting("venv", None, origin, is_open=True)


def _propose_base_directory(machine: Machine) -> ProposedSetting:
    key = "eval_base_dir"
    if given := machine.environ.get("EVAL_BASE_DIR"):
        return ProposedSetting(key, given, "$EVAL_BASE_DIR")
    if not machine.storage:
        return ProposedSetting(key, None, "no directory was found to write in", is_open=True)
    paths = [f"{place.path.rstrip('/')}/{_DIRECTORY}" for place in machine.storage]
    known = [Alternative(path, str(at)) for path, at in zip(paths, machine.storage, strict=True)]
    return ProposedSetting(key, paths[0], known[0].note, others=tuple(known[1:]))


def _propose_containers(machine: Machine, view: PartitionView) -> Iterator[ProposedSetting]:
    """Yield the settings that say which images run, how, and what their GPUs need."""
    maker, origin = _find_maker(view)
    variant = maker.variant if maker else "cpu"
    is_known = view.groups or view.gpus
    if is_known and (images := _propose_images(maker, variant)):
        kind = " ".join(
            filter(None, [maker.name if maker else "CPU", _architecture(machine, view)])
        )
        where = f"containers/ of oellm, for {kind} nodes; oe-build makes them"
        yield ProposedSetting("images", images, where)
    if maker:
        yield ProposedSetting("container_args", maker.container_args, origin)
    if machine.module:
        lines = [f"module load {machine.module}"]
        yield ProposedSetting("setup", lines, "no container runtime on PATH, but this module")


def _propose_images(maker: GpuMaker | None, variant: str) -> dict[str, str]:
    """Return the image of each framework that has a definition for the nodes' GPUs, or for CPUs.

    Clusters of the package that have such GPUs are the example.
    """
    known = definition_names(containers_directory())
    images: dict[str, str] = {}
    for layers in known_clusters({}, Node({}, "")).values() if maker else ():
        values = layers[-1].values
        if maker and maker.container_args[0] in values.get("container_args", ()):
            for key, file in values.get("images", {}).items():
                if file.removesuffix(".sif") in known:
                    images.setdefault(key, file)
    for framework in runnable_names():
        evaluation = f"{framework}-evaluate"
        wanted = [(framework, f"{name}-{variant}") for name in (framework, f"{framework}-generate")]
        # Programs that a model wrote are evaluated without a GPU.
        wanted.append((evaluation, f"{evaluation}-cpu"))
        for key, name in wanted:
            if name in known and (key == framework or framework in images):
                images.setdefault(key, f"{name}.sif")
    return images


def _architecture(machine: Machine, view: PartitionView) -> str:
    """Return the architecture of the nodes if it is not that of this login node."""
    typical = view.typical
    details = machine.facts.details.get(typical.first_node, {}) if typical else {}
    found = details.get("Arch", "")
    return "" if found == platform.machine() else found


def _find_maker(view: PartitionView) -> tuple[GpuMaker | None, str]:
    """Return who made the GPUs of a partition, and what tells it; None if there are none."""
    if not view.gpus:
        return None, ""
    typical = view.typical
    features = typical.features if typical else []
    names = [view.gpus.kind, *view.kinds, *features, view.name]
    for name in filter(None, names):
        if found := find_maker(name):
            return found, f"{found.name}'s GPUs: Slurm calls them {name}"
    return NVIDIA, f"a guess: Slurm does not name the type; {AMD.container_args[0]} for {AMD.name}"
