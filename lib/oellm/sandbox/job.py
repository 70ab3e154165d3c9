"""What the job layer is told to do, and what it answers."""

from __future__ import annotations

import json
from typing import NamedTuple


class Mapped(NamedTuple):
    """Something of this machine that a sandbox gets.

    Attributes:
        source: Its path on this machine.
        name: Its path in the box; for a program without a container, its path for the program.
    """

    source: str
    name: str


class BoxJob(NamedTuple):
    """The work of one job layer, a process of its own.

    Attributes:
        command: The program that it starts, and its arguments.
        environment: All of the program's environment.
        box: The directory for all that the program needs. In namespaces of its own, an empty file
            system in memory takes the place of this directory, for the program alone.
        mapped: What the box gets of this machine, if there are namespaces.
        files: Small files of the box, by their paths in it.
        namespaces: Whether the program gets user, mount and process namespaces.
        guard: Whether a program has no output if the guard could not isolate a sample.
        needs_samples: Whether it has none either if there was no sample.
        bare: Whether the program runs without a container.
        hidden: Directories that it must not see if it runs without a container.
        mount_points: Names below scratch/ on which the container runtime mounts inputs; those of
            directories end with a slash.
        moved: What the box shows below in/, and where a program without a container finds it.
        parent: The process that started the job layer.
        user: The numbers of the user and the group to become; empty if this process is not root.
        seconds, output_bytes, output_files, memory_bytes, processes, stack_bytes: contained.Limits.
        sample_memory_bytes, sample_processes: contained.SampleLimits.
    """

    command: list[str]
    environment: dict[str, str]
    box: str
    mapped: list[Mapped]
    files: dict[str, str]
    namespaces: bool
    guard: bool
    needs_samples: bool
    bare: bool
    hidden: list[str]
    mount_points: list[str]
    moved: list[Mapped]
    parent: int
    user: list[int]
    seconds: float
    output_bytes: int
    output_files: int
    memory_bytes: int
    processes: int
    stack_bytes: int
    sample_memory_bytes: int
    sample_processes: int

    def to_json(self) -> bytes:
        """Return the job as JSON."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def from_json(cls, data: bytes) -> BoxJob:
        """Return the job that to_json has written."""
        job = cls(**json.loads(data))
        mapped, moved = ([Mapped(*each) for each in part] for part in (job.mapped, job.moved))
        return job._replace(mapped=mapped, moved=moved)


class ProgramEnd(NamedTuple):
    """How the program ended.

    Attributes:
        status: Its exit status; negative if it was ended, or could not be started.
        reason: Why it was ended; empty if it ended by itself.
        seconds: Time from its start to its end.
        samples: How many samples the guard has isolated.
        error: Why the guard could not isolate one; empty if it could.
    """

    status: int
    reason: str = ""
    seconds: float = 0.0
    samples: int = 0
    error: str = ""

    def is_guarded(self, *, needs_samples: bool) -> bool:
        """Return whether the guard has isolated each sample, and if there must be some, that."""
        return not self.error and (self.samples > 0 or not needs_samples)

    def to_json(self) -> bytes:
        """Return the end as JSON."""
        return json.dumps(self).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ProgramEnd:
        """Return the end that to_json has written."""
        return cls(*json.loads(data))
