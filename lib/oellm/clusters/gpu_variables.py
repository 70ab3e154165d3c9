"""The variables that name the GPUs of a job or a process.

Slurm may set variables of several vendors. Only one of them may reach a program: AMD's runtime
counts CUDA_VISIBLE_DEVICES within what ROCR_VISIBLE_DEVICES leaves, and two may leave nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

NVIDIA = ("CUDA_VISIBLE_DEVICES",)
AMD = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
ALL = NVIDIA + AMD

# What Slurm calls AMD's GPUs: gpu:mi250, gpu:mi300a:4, gpu:amd.
_AMD_GRES = re.compile(r"(^|[:_-])(mi[0-9]|amd|radeon|instinct)", re.IGNORECASE)


def order_by_settings(container_args: Iterable[str], gres: str) -> tuple[str, ...]:
    """Return the variables, those of the jobs' vendor first; empty if the settings do not tell."""
    given = set(container_args)
    if "--rocm" in given or _AMD_GRES.search(gres):
        return AMD + NVIDIA
    return ALL if given & {"--nv", "--nvccli"} else ()


def order_by_devices(root: str = "/") -> tuple[str, ...]:
    """Return the variables, those of this machine's GPUs first. `root` is that of its files."""
    devices = Path(root, "dev")
    has_amd_alone = (devices / "kfd").exists() and not (devices / "nvidiactl").exists()
    return AMD + NVIDIA if has_amd_alone else ALL


def choose_variable(environ: Mapping[str, str], order: Iterable[str]) -> str:
    """Return the variable that counts: the first that names a GPU, else the first that is set.

    Returns an empty text if none is set.
    """
    given = [name for name in order if name in environ]
    return next((name for name in given if environ[name].strip()), given[0] if given else "")


def keep_one_variable(environ: MutableMapping[str, str], order: Iterable[str]) -> None:
    """Remove all of these variables but the one that counts."""
    chosen = choose_variable(environ, order)
    for name in ALL:
        if name != chosen:
            environ.pop(name, None)


def list_gpus(value: str) -> list[str]:
    """Return the GPUs that the value of a variable names."""
    names = [name.strip() for name in value.split(",")]
    # CUDA ignores an invalid name, such as -1, and all names after it.
    ends = (at for at, name in enumerate(names) if name in ("", "-1", "NoDevFiles"))
    return names[: next(ends, None)]


def describe_variables(environ: Mapping[str, str] = os.environ) -> str:
    """Return the variables that are set, for people: `CUDA_VISIBLE_DEVICES=0`."""
    given = [f"{name}={environ[name]}" for name in ALL if name in environ]
    return ", ".join(given) or "no variable names GPUs"
