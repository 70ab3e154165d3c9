"""Where a number comes from: the process, its machine, its Slurm job, its container.

All facts come from /proc, /sys and the environment; no program is started for them. The facts
about GPUs (the driver's files, the properties of devices) were not tried on a machine with GPUs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import socket
import sys
import time
from collections import Counter

from oellm import __version__
from oellm.core.redaction import redact
from oellm.runs.result_record import Facts

# They lead to the job in the accounting, and to the kind of node that it ran on.
SLURM_VARIABLES = (
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_JOB_PARTITION",
)
_LABELS = ("org.opencontainers.image.title", "org.opencontainers.image.description")


def process_facts() -> Facts:
    """Return the facts about this process and its machine (schema.json, `provenance`)."""
    return {
        "pid": os.getpid(),
        "command": [redact(word) for word in sys.orig_argv],
        "slurm": {name: os.environ[name] for name in SLURM_VARIABLES if name in os.environ},
        **_machine(),
    }


def start_seconds() -> float:
    """Return the seconds since this process started, including the start of Python.

    A fork counts from the fork on. The resolution is that of Linux, 0.01 s.
    """
    started = start_ticks() or 0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def start_ticks(pid: int | str = "self") -> int | None:
    """Return when a process started, in clock ticks since the machine did; None if it has ended."""
    # The second field, a name in parentheses, may itself hold blanks and parentheses. The third
    # field is the state, the 22nd the start (man 5 proc_pid_stat).
    fields = _text("/", f"proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def process_name(pid: int) -> str:
    """Return the name of a process; empty if there is no such process."""
    return _text("/", f"proc/{pid}/comm").rstrip("\n")


def boot_id() -> str:
    """Return the identity of the machine's present boot; empty if Linux does not tell."""
    return _text("/", "proc/sys/kernel/random/boot_id").strip()


def accelerator_facts(root: str = "/") -> Facts:
    """Return the GPUs that torch sees in this process, and the versions of driver and runtime.

    `root` is the root of the system's files. Imports torch. On a machine without a GPU the list and
    the versions are empty.
    """
    import torch

    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    properties = [torch.cuda.get_device_properties(device) for device in devices]
    return {
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in properties],
        "driver": gpu_driver(root),
        "cuda": torch.version.cuda or "",
        "hip": torch.version.hip or "",
    }


def describe_devices(accelerator: Facts) -> str:
    """Return what computes, for people: `2 × NVIDIA A100`, or the processor with its cores."""
    names = Counter(str(gpu["name"]) for gpu in accelerator["gpus"])
    if names:
        return " + ".join(f"{number} × {name}" for name, number in names.items())
    cores = len(os.sched_getaffinity(0))
    return f"CPU only ({cpu_model('/') or platform.machine()}, {cores} cores)"


@functools.cache
def _machine() -> Facts:
    """Return the facts that are the same in all forks of this process."""
    return {
        "host": socket.gethostname(),
        "cpu": {
            "model": cpu_model("/"),
            "architecture": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
        },
        "container": container_facts("/"),
        "versions": {"oellm": __version__, "python": platform.python_version()},
    }


def cpu_model(root: str) -> str:
    """Return the name of the processor; on ARM, for which Linux has none, its maker and part."""
    found = dict(
        re.findall(r"^([\w ]+?)\s*: (.*)$", _text(root, "proc/cpuinfo"), re.MULTILINE | re.ASCII)
    )
    parts = (f"{name} {found[name]}" for name in ("CPU implementer", "CPU part") if name in found)
    return found.get("model name") or ", ".join(parts)


def own_image() -> str:
    """Return the image that this process runs in; empty if it runs in none."""
    paths = (os.environ.get(f"{name}_CONTAINER", "") for name in ("APPTAINER", "SINGULARITY"))
    return next(filter(None, paths), "")


def container_facts(root: str) -> dict[str, str]:
    """Return facts about the image that this process runs in; none if it runs in no container.

    The facts are the image's path, its labels title and description, and the SHA-256 of the
    definition file, which Apptainer keeps in the images that it builds from one. Unknown facts are
    left out.
    """
    path = own_image()
    if not path:
        return {}
    try:
        labels = json.loads(_text(root, ".singularity.d/labels.json"))
    except ValueError:
        labels = {}
    definition = _text(root, ".singularity.d/Singularity").encode()
    facts = {
        "path": path,
        **{name.rpartition(".")[2]: str(labels.get(name, "")) for name in _LABELS},
        "definition_sha256": hashlib.sha256(definition).hexdigest() if definition else "",
    }
    return {name: fact for name, fact in facts.items() if fact}


def gpu_driver(root: str) -> str:
    """Return the version of NVIDIA's driver, or of AMD's if that is not part of the kernel."""
    nvidia = _text(root, "proc/driver/nvidia/version")
    match = re.search(r"Kernel Module(?: for \S+)?\s+([0-9.]+)\s", nvidia)
    return match[1] if match else _text(root, "sys/module/amdgpu/version").strip()


def _text(root: str, name: str) -> str:
    """Return the text of a file of the system; empty if there is no such file."""
    try:
        with open(os.path.join(root, name), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
