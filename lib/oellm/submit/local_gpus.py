"""The GPUs of this machine, each of which one array element at a time gets."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

# By which of these a program is told its GPUs depends on their maker.
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_TIMEOUT_S = 60


class _Tool(NamedTuple):
    """A program that lists GPUs, what names one in its output, and the variable for these."""

    command: tuple[str, ...]
    pattern: str
    variable: str


_TOOLS = (
    _Tool(("nvidia-smi", "--list-gpus"), r"^GPU (\d+):", "CUDA_VISIBLE_DEVICES"),
    _Tool(("rocm-smi", "--showid"), r"^GPU\[(\d+)\]", "ROCR_VISIBLE_DEVICES"),
)


class LocalGpus:
    """GPUs by the names that a variable has for them, and which of them are free."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._variable, self._free = _found(environment)
        self.count = len(self._free)

    def suffice(self, number: int) -> bool:
        """Return whether so many are free; a machine without any does not ask for them."""
        return number <= len(self._free) or not self.count

    def take(self, number: int) -> list[str]:
        """Return so many that nobody has, and that nobody else gets until they are given back."""
        taken, self._free = self._free[:number], self._free[number:]
        return taken

    def give_back(self, gpus: list[str]) -> None:
        """Make GPUs free again."""
        self._free += gpus

    def variables(self, gpus: list[str]) -> dict[str, str]:
        """Return what tells a program that it has these GPUs, nothing on a machine without any."""
        return {self._variable: ",".join(gpus)} if self.count else {}


def _found(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the variable for GPUs, and the names of those that are ours."""
    for variable in _VARIABLES:
        if variable in environment:
            names = [name.strip() for name in environment[variable].split(",")]
            # CUDA takes the first name that is none, such as -1, for the end.
            ends = (at for at, name in enumerate(names) if name in ("", "-1", "NoDevFiles"))
            return variable, names[: next(ends, None)]
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
            # A driver that does not answer is no machine with GPUs.
            if done.returncode == 0:
                names = re.findall(tool.pattern, done.stdout, re.MULTILINE)
                return tool.variable, list(dict.fromkeys(names))
    return "", []
