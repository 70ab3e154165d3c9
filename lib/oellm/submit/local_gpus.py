"""The GPUs of this machine. Each is lent to one array element at a time."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from oellm.clusters import gpu_variables

_TIMEOUT_S = 60


class _Tool(NamedTuple):
    """A program that lists GPUs.

    Attributes:
        command: Its command line.
        pattern: Finds the name of each GPU in its output.
        variable: The variable in which these names stand.
    """

    command: tuple[str, ...]
    pattern: str
    variable: str


_TOOLS = (
    _Tool(("nvidia-smi", "--list-gpus"), "^GPU ([0-9]+):", "CUDA_VISIBLE_DEVICES"),
    _Tool(("rocm-smi", "--showid"), r"^GPU\[([0-9]+)\]", "ROCR_VISIBLE_DEVICES"),
)


class LocalGpus:
    """The GPUs by their names in a variable, and which of them are free.

    `order` are the variables that may name them; the first one counts.
    """

    def __init__(self, environment: Mapping[str, str], order: tuple[str, ...]) -> None:
        self._variable, self._free = _find_gpus(environment, order)
        self.count = len(self._free)

    def suffice(self, number: int) -> bool:
        """Return whether `number` GPUs are free; on a machine without GPUs, always True."""
        return number <= len(self._free) or not self.count

    def take(self, number: int) -> list[str]:
        """Return `number` free GPUs, which nobody else gets until they are given back."""
        taken, self._free = self._free[:number], self._free[number:]
        return taken

    def give_back(self, gpus: list[str]) -> None:
        """Make GPUs free again."""
        self._free += gpus

    def variables(self, gpus: list[str]) -> dict[str, str]:
        """Return the variables that give a program these GPUs; none on a machine without GPUs.

        A variable that names no GPU hides them all; programs get it, too.
        """
        return {self._variable: ",".join(gpus)} if self._variable else {}


def _find_gpus(environment: Mapping[str, str], order: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the variable for GPUs, and the names of those that we may use."""
    if variable := gpu_variables.choose_variable(environment, order):
        return variable, gpu_variables.list_gpus(environment[variable])
    for tool in _TOOLS:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                tool.command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
            # A silent driver counts as no GPUs.
            names = re.findall(tool.pattern, done.stdout, re.MULTILINE)
            if done.returncode == 0 and names:
                return tool.variable, list(dict.fromkeys(names))
    return "", []
