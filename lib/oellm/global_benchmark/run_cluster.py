"""The cluster of a run: what is known of this machine, with the settings of config.json over it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oellm.clusters.cluster import Cluster, Layer, resolve_cluster
from oellm.core import json_codec
from oellm.core.atomic import write_file
from oellm.errors import MachineError
from oellm.global_benchmark.benchmark_tasks import BenchmarkTask, image_definitions
from oellm.global_benchmark.config_file import DEFAULTS, FILE, RUN, SLURM, BenchmarkConfig
from oellm.global_benchmark.framework_images import (
    ARGUMENTS,
    find_images,
    find_kind,
    kind_of_image,
)

# Where results are, below the current directory.
RESULTS = "results"
_ORIGIN = "global-benchmark"
_IMAGES = "images_directory"
# The cache of a machine without one for all its users.
_CACHE = "{home}/.cache/huggingface"


def resolve_benchmark_cluster(
    config: BenchmarkConfig, environ: Mapping[str, str], *, slurm: bool
) -> Cluster:
    """Return the settings of a run with this configuration, on Slurm or on this machine.

    They are those of this machine's cluster (oe-detect), or generic ones if none matches. Images
    come from images_directory, unless a setting names others. Raises MachineError without sbatch
    where it is needed, and as resolve_cluster.
    """
    executor = [f"executor={'slurm' if slurm else 'local'}"]
    values = {"eval_output_dir": os.path.abspath(RESULTS), "hf_home": _CACHE}
    values[_IMAGES] = DEFAULTS[RUN][_IMAGES]
    first = [
        Layer(_ORIGIN, values),
        Layer(f"{FILE}: {RUN}", _with_images(config.run)),
        Layer(f"{FILE}: {SLURM}", _with_images(config.slurm)),
    ]
    name = None
    try:
        cluster = resolve_cluster(None, executor, environ, own=first)
    except MachineError:
        name = "slurm" if slurm else "local"
        cluster = resolve_cluster(name, executor, environ, own=first)
    if slurm and cluster.text("name") == "local":
        raise MachineError("--slurm: this machine has no sbatch")
    own = [Layer(_ORIGIN, _values_for(cluster)), *first[1:]]
    return resolve_cluster(name, executor, environ, own=own)


def _with_images(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a section without a directory of images that is empty: the default holds then."""
    return {key: value for key, value in section.items() if key != _IMAGES or value}


def require_environments(cluster: Cluster, tasks: Iterable[BenchmarkTask]) -> None:
    """Raise MachineError if there is neither an image nor a virtual environment for a task."""
    directory = cluster.text("images_directory")
    images = cluster.mapping("images")
    for task in tasks:
        suite = task.eval_suite
        if suite in images and os.path.exists(os.path.join(directory, images[suite])):
            continue
        if suite in images or not (suite in cluster.mapping("venvs") or cluster.text("venv")):
            makers = [name for name, keys in image_definitions().items() if suite in keys]
            setup = f"global-benchmark setup{''.join(f' --definitions {each}' for each in makers)}"
            instead = "" if suite in images else ", or name a virtual environment: setting venv"
            raise MachineError(
                f"{task.name}: no image of {suite} in {directory}; `{setup}` makes it{instead}"
            )


def _values_for(cluster: Cluster) -> dict[str, Any]:
    """Return the settings that a cluster lacks for a run."""
    values: dict[str, Any] = {"eval_output_dir": os.path.abspath(RESULTS)}
    if not cluster.text("eval_base_dir"):
        values["hf_home"] = _CACHE
    if cluster.text("container_runtime") == "none":
        values["container_runtime"] = "auto"
    values[_IMAGES] = cluster.text(_IMAGES)
    images = find_images(Path(cluster.text(_IMAGES)), find_kind(cluster))
    values["images"] = {key: str(path) for key, path in images.items()}
    kinds = sorted({kind_of_image(path) for path in images.values()})
    arguments = [word for kind in kinds for word in ARGUMENTS[kind]]
    if arguments and not cluster.items("container_args"):
        values["container_args"] = arguments
    return values


def write_cluster(path: Path, cluster: Cluster) -> None:
    """Write the settings as oe-render and oe-fetch read them (`--cluster FILE`)."""
    write_file(path, json_codec.dumps(dict(cluster.settings), indent=True) + b"\n")
