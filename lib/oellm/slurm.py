"""Slurm's commands: asking is apart from reading the answer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oellm.errors import MachineError, OellmError

_TIMEOUT_S = 60


@dataclass(frozen=True)
class QueuedElement:
    """One job or array element in the queue; `index` is None where the job is no array."""

    job_id: int
    index: int | None


def ask(command: Sequence[str]) -> str:
    """Run one Slurm command and return its stdout.

    Raises MachineError where it is missing or does not answer, OellmError with its own words
    where it fails.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not on PATH: is this a Slurm login node?") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{command[0]} did not answer within {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        words = done.stderr.strip() or f"exit status {done.returncode}"
        raise OellmError(f"{command[0]} failed: {words}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Return the environment without variables that change what Slurm's commands do.

    SBATCH_PARTITION and its like win over the batch script, SQUEUE_FORMAT over our format, and
    the SLURM_ variables of an interactive job would shape the jobs that are submitted from it.
    """
    prefixes = ("SBATCH_", "SQUEUE_", "SLURM_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) or name == "SLURM_CONF"
    }


def queued() -> list[QueuedElement]:
    """Return this user's jobs in the queue, each array element by itself."""
    return parse_queue(ask(["squeue", "--me", "--noheader", "--array", "--format=%F %K"]))


def parse_queue(text: str) -> list[QueuedElement]:
    """Read `squeue --format='%F %K'`: the array's job id and the element's index."""
    elements = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+) (\d+|N/A)", line.strip())
        if not match:
            raise OellmError(f"squeue: expected a job id and an array index, got {line!r}")
        index = None if match.group(2) == "N/A" else int(match.group(2))
        elements.append(QueuedElement(int(match.group(1)), index))
    return elements


def submit_command(script: str, indices: Sequence[int], concurrency: int | None) -> list[str]:
    """Return the sbatch command line that submits some array indices of a script."""
    throttle = f"%{concurrency}" if concurrency else ""
    return ["sbatch", "--parsable", f"--array={ranges(indices)}{throttle}", script]


def parse_job_id(text: str) -> int:
    """Read the answer of `sbatch --parsable`: `JOB` or `JOB;CLUSTER`, after any site's banner."""
    lines = text.strip().splitlines()
    match = re.fullmatch(r"(\d+)(;.*)?", lines[-1].strip()) if lines else None
    if not match:
        raise OellmError(f"sbatch: expected a job id, got {text!r}")
    return int(match.group(1))


def parse_duration(text: str) -> int | None:
    """Return the seconds that a time limit stands for, None for UNLIMITED.

    Slurm reads `4` and `4:30` as minutes first, but `1-4` and `1-4:30` as hours first.
    """
    if not text[:1].isdigit():
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(n * unit for n, unit in zip(parts, units, strict=False))


def ranges(indices: Iterable[int]) -> str:
    """Return indices as Slurm writes them: `0,2-5,9`."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
