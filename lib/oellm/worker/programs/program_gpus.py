"""The GPUs that the programs of a worker may use: it has no torch to ask."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable

from oellm.clusters import gpu_variables
from oellm.core.log import Log
from oellm.manifest.rows import Row
from oellm.runs.provenance import gpu_driver
from oellm.runs.result_record import Facts
from oellm.worker import gpu_check
from oellm.worker.gpu_check import GpuDemand
from oellm.worker.halts import Halt

_MODEL = re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE)


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


def find_gpus(count: int, root: str = "/") -> Facts:
    """Return the worker's GPUs as the provenance has them; `root` is the root of system files.

    Which of a machine's GPUs they are decides nothing but their names, which are mostly the same.
    """
    names = [_read_model(path) for path in sorted(glob.glob(f"{root}proc/driver/nvidia/gpus/*"))]
    variable = gpu_variables.choose_variable(os.environ, gpu_variables.order_by_devices(root))
    numbers = gpu_variables.list_gpus(os.environ[variable]) if variable else []
    chosen = [names[int(text)] for text in numbers if text.isdecimal() and int(text) < len(names)]
    named = (chosen or names)[:count]
    return {"gpus": [{"name": name} for name in named if name], "driver": gpu_driver(root)}


def _read_model(directory: str) -> str:
    try:
        with open(f"{directory}/information", encoding="utf-8", errors="replace") as stream:
            match = _MODEL.search(stream.read())
    except OSError:
        return ""
    return match[1] if match else ""


def _wanted(row: Row) -> int:
    return 0 if gpu_check.is_for_cpu(row) else row.typed.tp
