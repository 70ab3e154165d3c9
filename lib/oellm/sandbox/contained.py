"""What runs in the sandbox, within which limits, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# Where the program finds its only writable places. They are in memory, and limited.
OUTPUT = "/out"
SCRATCH = "/scratch"


class SampleLimits(NamedTuple):
    """Limits of one sample, that is, of all processes that one program of a model starts.

    Attributes:
        memory_bytes: Resident memory of all its processes together.
        address_space_bytes: Address space of each process; 0 sets no limit. A framework that sets a
            limit of its own fails if this one is lower: bigcodebench needs 30 GiB or 0.
        processes: Processes and threads.
        file_bytes: Largest file, and all that it writes.
        files: Files.
        cpu_seconds: CPU time of each process.
        seconds: Time from its start, whatever the framework waits for.
    """

    memory_bytes: int = 4 << 30
    address_space_bytes: int = 4 << 30
    processes: int = 64
    file_bytes: int = 16 << 20
    files: int = 500
    cpu_seconds: int = 300
    seconds: int = 600


class Limits(NamedTuple):
    """Limits of a program in the sandbox, with all that it starts.

    Attributes:
        seconds: Time from its start.
        output_bytes: Size of all that it leaves in OUTPUT; SCRATCH has the same limit.
        output_files: Files and directories in OUTPUT; SCRATCH has the same limit.
        memory_bytes: Resident memory of all its processes together, without files in memory.
        processes: Processes and threads.
        log_bytes: What the log takes of its output; the rest is discarded.
        stack_bytes: The least hard limit of the stack that it needs; 0 needs none. Nothing can
            raise the machine's own limit.
        sample: Limits of each sample, if the guard is in force.
    """

    seconds: float
    output_bytes: int = 1 << 30
    output_files: int = 10_000
    memory_bytes: int = 16 << 30
    processes: int = 1000
    log_bytes: int = 16 << 20
    stack_bytes: int = 0
    sample: SampleLimits = SampleLimits()


class Contained(NamedTuple):
    """A program for the sandbox.

    Attributes:
        argv: The program and its arguments. It starts in OUTPUT.
        image: The container image; None runs it on this machine's file system.
        inputs: What it reads: paths on this machine, and the absolute paths where the program finds
            them. They are read-only.
        output: An existing directory that gets the regular files that the program left in OUTPUT,
            if it ended with status 0.
        env: All of its environment, besides TMPDIR, HOME, XDG_CACHE_HOME, MPLCONFIGDIR (below
            SCRATCH) and what the image sets. Must hold no secrets.
        limits: Its limits.
        guard: Whether processes whose target is named `unsafe_execute` get namespaces of their own.
        needs_samples: Whether it has no output if there was no such process. Without this, what the
            program runs itself is protected by the container alone.
        runtime: The program that runs the image: `apptainer`, `singularity`, a path, or `auto`.
        container_args: Further arguments of its `exec`.
    """

    argv: tuple[str, ...]
    image: Path | None
    inputs: Mapping[Path, str]
    output: Path
    env: Mapping[str, str]
    limits: Limits
    guard: bool = True
    needs_samples: bool = True
    runtime: str = "auto"
    container_args: tuple[str, ...] = ()


class Layers(NamedTuple):
    """What protects this machine from a program and what that runs.

    Attributes:
        container: The program runs in a container without network.
        namespaces: It has user, mount and process namespaces of its own, output in memory, and
            nothing of it survives.
        guard: Each sample has namespaces of its own within these.
        user: The numbers of the user and the group that root becomes; None for the user itself.
        runtime: The path of the container runtime.
        missing: Why not all layers are there; empty if they are.
    """

    container: bool
    namespaces: bool
    guard: bool
    user: tuple[int, int] | None = None
    runtime: str = ""
    missing: str = ""

    def __str__(self) -> str:
        """Return `container+guard`, `container`, `guard`, `namespaces` or `none`."""
        names = [name for name in ("container", "guard") if getattr(self, name)]
        return "+".join(names) or ("namespaces" if self.namespaces else "none")


class Refused(NamedTuple):
    """Something in OUTPUT that was not copied, and why."""

    name: str
    reason: str


class ContainedEnd(NamedTuple):
    """How a program in the sandbox ended.

    Attributes:
        status: Its exit status; negative if it was ended or could not be started.
        reason: Why it did not end with status 0; empty if it did.
        seconds: Time from its start to the end of its last process.
        copied: The files that were copied to the output directory, by their paths in it.
        refused: What was not copied.
        samples: How many samples the guard has isolated.
    """

    status: int
    reason: str
    seconds: float
    copied: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    samples: int = 0
