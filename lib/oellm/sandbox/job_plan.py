"""From a program for the sandbox to the work of its job layer: what goes where in the box."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from oellm.sandbox.command import (
    GUARD,
    PLACES,
    REPLACED,
    Binding,
    container_command,
    plain_command,
)
from oellm.sandbox.contained import Contained, Layers
from oellm.sandbox.guard_files import guard_files
from oellm.sandbox.job import BoxJob, Mapped

# Variables that name a directory of the user to container runtimes.
_HOMES = ("HOME", "APPTAINER_CACHEDIR", "APPTAINER_CONFIGDIR", "SINGULARITY_CACHEDIR")


class _Given(NamedTuple):
    """Something that a program is given: its path here, in the box, and for the program."""

    source: str
    name: str
    target: str

    @property
    def mount_point(self) -> str:
        """Its name below scratch/, if its path for the program leads there; else empty."""
        for path, name in REPLACED.items():
            if self.target.startswith(f"{path}/"):
                end = "/" if os.path.isdir(self.source) else ""
                return f"{name}{self.target.removeprefix(path)}{end}"
        return ""


def plan_job(contained: Contained, layers: Layers, box: str) -> BoxJob:
    """Return what the job layer has to do for a program, with its box at that path."""
    limits = contained.limits
    given = _given(contained)
    is_bare = contained.image is None
    # A root of this machine's own files is complete before there is a scratch directory.
    early = [each for each in given if is_bare and not each.mount_point]
    mapped = [
        *([Mapped(str(contained.image), "image")] if contained.image else []),
        *(Mapped(each.source, each.target if each in early else each.name) for each in given),
    ]
    return BoxJob(
        command=_command(contained, layers, box),
        environment=_runtime_environment(box),
        box=box,
        mapped=mapped if layers.namespaces else [],
        files={f"guard/{name}": text for name, text in guard_files().items()},
        namespaces=layers.namespaces,
        guard=contained.guard,
        needs_samples=contained.needs_samples,
        bare=is_bare,
        hidden=_hidden(),
        mount_points=[each.mount_point for each in given if each.mount_point],
        moved=[Mapped(each.name, each.target) for each in given if is_bare and each.mount_point],
        parent=os.getpid(),
        user=list(layers.user or ()),
        seconds=limits.seconds,
        output_bytes=limits.output_bytes,
        output_files=limits.output_files,
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        stack_bytes=limits.stack_bytes,
        sample_memory_bytes=limits.sample.memory_bytes,
        sample_processes=limits.sample.processes,
    )


def _given(contained: Contained) -> list[_Given]:
    paths = {str(path): target for path, target in contained.inputs.items()}
    if contained.image is None:
        paths = {**{path: path for path in _installations(contained.argv[0])}, **paths}
    return [
        _Given(source, f"in/{number}", target)
        for number, (source, target) in enumerate(paths.items())
    ]


def _installations(program: str) -> Iterator[str]:
    """Yield the directories that a program without a container needs: those around its bin/."""
    for path in dict.fromkeys((program, os.path.realpath(program))):
        if path.startswith("/") and os.path.exists(path):
            directory = os.path.dirname(path)
            is_bin = os.path.basename(directory) == "bin"
            yield os.path.dirname(directory) if is_bin else directory


def _hidden() -> list[str]:
    """Return what a program without a container must not see, unless it is given it."""
    home = os.path.realpath(os.path.expanduser("~"))
    return list(dict.fromkeys(["/home", "/root", "/run", "/tmp", "/var/tmp", home]))  # noqa: S108


def _command(contained: Contained, layers: Layers, box: str) -> list[str]:
    if contained.image is None and layers.namespaces:
        return plain_command(contained)
    if contained.image is None:
        found = {inside: f"{box}/{name}" for inside, name in PLACES.items()}
        found |= {target: str(path) for path, target in contained.inputs.items()}
        return _with_paths_of_this_machine(plain_command(contained), found)
    bindings = [
        *(Binding(f"{box}/{name}", path, path != GUARD) for path, name in PLACES.items()),
        *(Binding(f"{box}/scratch/{name}", path, True) for path, name in REPLACED.items()),
        *(
            Binding(f"{box}/{each.name}" if layers.namespaces else each.source, each.target, False)
            for each in _given(contained)
        ),
    ]
    return container_command(
        layers.runtime,
        contained,
        image=f"{box}/image" if layers.namespaces else str(contained.image),
        bindings=bindings,
        own_namespaces=layers.namespaces,
    )


def _with_paths_of_this_machine(command: list[str], found: dict[str, str]) -> list[str]:
    """Replace paths inside a container by those on this machine, where there is no container."""
    longest_first = sorted(found, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w/.-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])")
    return [pattern.sub(lambda match: found[match[1]], text) for text in command]


def _runtime_environment(box: str) -> dict[str, str]:
    """Return the environment of the container runtime; none of it reaches the program."""
    given = {name: os.environ.get(name, "") for name in ("PATH", "LD_LIBRARY_PATH")}
    return {
        **{name: value for name, value in given.items() if value},
        **dict.fromkeys(_HOMES, f"{box}/home"),
        "TMPDIR": f"{box}/scratch/tmp",
        "LANG": "C.UTF-8",
    }
