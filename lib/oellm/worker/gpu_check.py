"""Whether a worker can use the GPUs that it was given, asked before a model is loaded.

Without a GPU, frameworks compute on the CPU and say nothing: a forgotten `--nv` costs a night at
the price of a GPU. What a moment's look decides is decided here, in the worker's first process.
Torch is asked in the model's process, right after it is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters import gpu_variables
from oellm.manifest.rows import Row
from oellm.runs.provenance import own_image
from oellm.runs.run_directory import Run
from oellm.worker.halts import Halt

# Names below /dev of GPUs: NVIDIA's (also in WSL and on Tegra boards), AMD's, anybody's.
_DEVICES = ("nvidia[0-9]*", "dxg", "nvhost-gpu", "nvgpu", "kfd", "dri/renderD*")
_OF_NVIDIA = ("nvidia[0-9]*",)
_OF_OTHERS = ("dxg", "nvhost-gpu", "nvgpu", "kfd")
# Slurm sets one of these in jobs and steps that have GPUs.
_SLURM = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")
# For rows without a run, and for a shard that somebody evaluates by hand: as oe-render reads it.
_ALLOW_CPU = "OELLM_ALLOW_CPU"
_TOOLS = ("nvidia-smi", "rocm-smi")
_TOOL_S = 10


class GpuDemand(NamedTuple):
    """What a worker was given.

    Attributes:
        number: GPUs that must be usable; 0 if it was given none.
        allow_cpu: Whether it may go on without them.
    """

    number: int = 0
    allow_cpu: bool = False


NO_GPUS = GpuDemand()


def find_demand(run: Run | None, shard: int | None, rows: Iterable[Row]) -> GpuDemand:
    """Return what the worker of a shard, or of rows without a run, was given."""
    allowed = os.environ.get(_ALLOW_CPU, "").lower() in ("1", "true", "yes")
    if all(is_for_cpu(row) for row in rows):
        return GpuDemand(0, allowed)
    if run is None or shard is None:
        count = 1 if any(os.environ.get(name) for name in _SLURM) else 0
        return GpuDemand(count, allowed)
    wanted = run.arrays[run.shards[shard].array].gpus
    count = wanted if _gives_gpus(run.setting, os.environ) else 0
    return GpuDemand(count, allowed or bool(run.setting("allow_cpu")))


def find_obstacle(count: int, root: str = "/") -> str:
    """Return why a process here cannot use `count` GPUs, empty if a moment's look finds nothing.

    `root` is the root of the system's files.
    """
    variable = gpu_variables.choose_variable(os.environ, gpu_variables.order_by_devices(root))
    if variable and len(named := gpu_variables.list_gpus(os.environ[variable])) < count:
        return f"{variable}={os.environ[variable]} names {len(named) or 'none'} of them"
    if not any(_find(root, _DEVICES)):
        return "this machine shows none"
    has_only_nvidia = any(_find(root, _OF_NVIDIA)) and not any(_find(root, _OF_OTHERS))
    if has_only_nvidia and not _has_nvidia_library():
        hint = "is --nv missing in container_args?" if own_image() else "is the driver installed?"
        return f"NVIDIA's driver library libcuda.so.1 is not there; {hint}"
    return ""


def find_obstacle_of_torch(count: int, *, may_touch: bool) -> str:
    """Return why torch cannot use `count` GPUs in this process; empty if it can, or is not there.

    `may_touch` says that a GPU may be initialised here; backends that start processes of their own
    do that themselves.
    """
    try:
        import torch
    except ImportError:
        return ""
    found = torch.cuda.device_count()
    if found >= count and not may_touch:
        return ""
    try:
        torch.cuda.init()
        for number in range(count):
            torch.zeros(1, device=f"cuda:{number}")
    # A driver raises what it likes.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        return f"torch {torch.__version__} sees {found} of them: {reason}"
    return "" if found >= count else f"torch {torch.__version__} sees {found} of them"


def warn_of_cpu(count: int, obstacle: str) -> str:
    """Return the warning of a worker that may go on without its GPUs."""
    return (
        f"WARNING: computing on the CPU, because allow_cpu is set: {describe_gpus(count)} cannot "
        f"be used: {obstacle}"
    )


def describe_gpus(count: int) -> str:
    """Return what a worker was given, for people."""
    return "the GPU that the worker was given" if count == 1 else f"the worker's {count} GPUs"


def describe_unusable(count: int, obstacle: str) -> Halt:
    """Return why a worker whose GPUs cannot be used ends."""
    gpus = describe_gpus(count)
    reason = f"{gpus} cannot be used: {obstacle} ({describe_sight()})"
    return Halt(reason, is_unusable=True, hint="--set=allow_cpu=true permits the CPU")


def describe_sight(root: str = "/") -> str:
    """Return what there is to see of GPUs on this machine, for people."""
    devices = sorted(str(path.relative_to(root)) for path in _find(root, _DEVICES))
    shown = ", ".join(f"/{name}" for name in devices[:8]) or "no /dev/nvidia*, no /dev/kfd"
    parts = [gpu_variables.describe_variables(os.environ), shown, *map(_ask_tool, _TOOLS)]
    if image := own_image():
        parts.append(f"in the container {image}")
    return "; ".join(parts)


def is_for_cpu(row: Row) -> bool:
    """Return whether a row asks for another device than a GPU of NVIDIA or AMD."""
    return not str(row.model_arguments.get("device", "cuda")).startswith("cuda")


def _gives_gpus(setting: Callable[[str], Any], environ: Mapping[str, str]) -> bool:
    """Return whether the jobs of a run get GPUs, or this process has some."""
    options = setting("sbatch") or {}
    asks = setting("gpu_gres") and setting("executor") == "slurm" and "SLURM_JOB_ID" in environ
    variable = gpu_variables.choose_variable(environ, gpu_variables.order_by_devices())
    return bool(
        (setting("gpus_per_node") or 0) > 0
        or asks
        or any(name.startswith("gpus") for name in options)
        or "gpu" in str(options.get("gres", ""))
        or (variable and gpu_variables.list_gpus(environ[variable]))
    )


def _find(root: str, patterns: Iterable[str]) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for pattern in patterns for path in Path(root, "dev").glob(pattern)]
    return []


def _has_nvidia_library() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _ask_tool(name: str) -> str:
    """Return what a program that shows GPUs says: the first line."""
    if shutil.which(name) is None:
        return f"no {name}"
    try:
        done = subprocess.run(
            [name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_TOOL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name}: {error}"
    said = next((line.strip() for line in done.stdout.splitlines() if line.strip()), "nothing")
    return f"{name} (status {done.returncode}): {said[:200]}"
