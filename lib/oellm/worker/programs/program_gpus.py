"""The GPUs that the programs of a worker may use."""

from __future__ import annotations

from collections.abc import Iterable

from oellm.core.log import Log
from oellm.manifest.rows import Row
from oellm.worker import gpu_check
from oellm.worker.gpu_check import GpuDemand
from oellm.worker.halts import Halt


class ProgramGpus:
    """Says how many GPUs a program may use; `root` is the root of the system's files.

    A worker that was given none uses those that the machine shows, as a framework that is not
    told does.

    Attributes:
        number: The largest number that one program may use, once `check` was called.
    """

    def __init__(self, demand: GpuDemand, log: Log, root: str = "/") -> None:
        self._demand = demand
        self._log = log
        self._root = root
        self.number = demand.number

    def check(self, rows: Iterable[Row]) -> Halt | None:
        """Look for the GPUs that some rows may use; return why those given are not usable."""
        wanted = self._demand.number or max((_wanted(row) for row in rows), default=0)
        obstacle = gpu_check.find_obstacle(wanted, self._root) if wanted else ""
        self.number = 0 if obstacle else wanted
        if not obstacle or not self._demand.number:
            return None
        if not self._demand.allow_cpu:
            return gpu_check.describe_unusable(wanted, obstacle)
        self._log(gpu_check.warn_of_cpu(wanted, obstacle))
        return None

    def count(self, row: Row) -> int:
        """Return how many GPUs the program of a row may use."""
        if self._demand.number:
            return self.number if _wanted(row) else 0
        return min(self.number, _wanted(row))


def _wanted(row: Row) -> int:
    return 0 if gpu_check.is_for_cpu(row) else row.typed.tp
