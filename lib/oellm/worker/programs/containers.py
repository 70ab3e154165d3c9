"""The command lines of programs on this node: in a container, or with a Python of the node."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.clusters import gpu_variables
from oellm.clusters.binds import bind_line, bind_option, list_binds
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import (
    ACCELERATOR_ARGUMENTS,
    runtime_names,
    which_runtime,
    worker_variables,
)
from oellm.core import redaction
from oellm.core.regular_files import open_regular_text
from oellm.errors import MachineError
from oellm.hub import environment
from oellm.manifest.rows import Row
from oellm.runs.run_directory import BINDS
from oellm.task_sources.cache import source_directories

# A program must not see another one's Python, and it is no child of a batch script of ours.
_NOT_FOR_PROGRAMS = ("PYTHONPATH", "PYTHONHOME", "OELLM_SCRIPT_PID")


class Paths(NamedTuple):
    """What a program reads and writes besides the shared directories.

    Attributes:
        writable: Directories that it may write to; it starts in the first one.
        read_only: Directories that it must not change.
        rows: The rows, whose models and own files it reads.
    """

    writable: tuple[str, ...]
    read_only: tuple[str, ...]
    rows: tuple[Row, ...]


class NodeCommands:
    """Makes the command lines of programs.

    `directory` is the run's, or what stands for it; it may hold a list of what containers see.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster = cluster
        self._directory = directory

    def command(
        self,
        image: Path | None,
        argv: Iterable[str],
        *,
        paths: Paths,
        env: Mapping[str, str],
        gpu: bool,
    ) -> list[str]:
        """Return the command line of a program: as it is, or inside a container.

        `env` is for the program; `gpu` says whether it gets the GPUs of this process. Raises
        MachineError if there is no container runtime.
        """
        if image is None:
            return list(argv)
        arguments = self._cluster.items("container_args")
        if not gpu:
            arguments = [text for text in arguments if text not in ACCELERATOR_ARGUMENTS]
        hidden = [*_NOT_FOR_PROGRAMS, *(() if gpu else _GPU_VARIABLES)]
        return [
            *(self.runtime(), "exec", f"--pwd={paths.writable[0]}"),
            *arguments,
            *self._bind_options(paths),
            *(str(image), "env"),
            *(word for name in hidden for word in ("-u", name)),
            *(f"{name}={value}" for name, value in env.items()),
            *argv,
        ]

    def variables(self, image: Path | None, own: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that programs get besides those of this process; `own` prevail."""
        variables = worker_variables(self._cluster, image, {})
        environment.forbid_network(variables)
        return {**variables, **own}

    def contained_variables(self, image: Path | None, own: Mapping[str, str]) -> dict[str, str]:
        """Return all variables that programs in a sandbox get, besides those that it sets."""
        path = {} if image is not None else {"PATH": os.environ.get("PATH", os.defpath)}
        return {**path, **self.variables(image, own)}

    def surroundings(self, *, gpu: bool) -> dict[str, str]:
        """Return the variables of this process that a program, or its container, may have."""
        environ = dict(os.environ)
        redaction.drop_secrets(environ)
        hidden = {*_NOT_FOR_PROGRAMS, *(() if gpu else _GPU_VARIABLES)}
        return {name: value for name, value in environ.items() if name not in hidden}

    def runtime(self) -> str:
        """Return the program that runs containers; raises MachineError if there is none."""
        names = runtime_names(self._cluster.text("container_runtime"))
        if path := which_runtime(names):
            return path
        raise MachineError(f"{' and '.join(names)}: not on PATH of {os.uname().nodename}")

    def _bind_options(self, paths: Paths) -> list[str]:
        lines = [*self._shared(paths.rows), *map(bind_line, paths.writable)]
        lines += [_read_only(path) for path in paths.read_only]
        return [text for line in dict.fromkeys(lines) for text in bind_option(line)]

    def _shared(self, rows: Iterable[Row]) -> list[str]:
        """Return what the containers of all programs see."""
        try:
            with open_regular_text(self._directory / BINDS) as stream:
                return [*stream.read().splitlines(), bind_line(str(self._directory))]
        except FileNotFoundError:
            models = [row.model for row in rows]
            environ = {"HF_HOME": self._cluster.text("hf_home") or os.environ.get("HF_HOME", "")}
            own = [
                path for row in rows for path in source_directories(row["include_path"], environ)
            ]
            return list_binds(self._cluster, self._directory, models=models, paths=own)


_GPU_VARIABLES = (*gpu_variables.NVIDIA, *gpu_variables.AMD)


def _read_only(path: str) -> str:
    line = bind_line(path)
    return f"{line},ro" if line != path else f"{path}:{path}:ro"
