"""Whether the tasks of rows exist, as far as that can be told at once and from here."""

from __future__ import annotations

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import runs_here
from oellm.core.log import Log
from oellm.errors import InputError, MachineError
from oellm.frameworks.interface import Tasks
from oellm.manifest.rows import Row

# Warnings that are given one by one.
_SHOWN = 10


class TaskCheck:
    """Looks up the tasks of rows of a cluster, each once.

    Whether a task exists is known from here if jobs use this Python, or if the framework is a
    program, whose catalogue comes with oellm. Otherwise jobs may have another version of the
    framework, and an unknown name is only warned about. Without an index of the
    framework's tasks, or without the framework, nothing is said.
    """

    def __init__(self, cluster: Cluster, log: Log) -> None:
        self._cluster = cluster
        self._log = log
        self._tasks: dict[str, Tasks] = {}
        self._seen: set[tuple[str, str, str]] = set()
        self._warnings = 0

    def look_up(self, row: Row) -> None:
        """Raise InputError, with the place, if a row's task cannot exist; else warn of problems."""
        cells = row.cells
        key = (
            cells.get("eval_suite", ""),
            cells.get("task_path", ""),
            cells.get("include_path", ""),
        )
        if key in self._seen:
            return
        self._seen.add(key)
        suite = row.typed.eval_suite
        if suite not in self._tasks:
            self._tasks[suite] = frameworks.create_tasks(suite, self._log)
        try:
            self._check(row, self._tasks[suite])
        except InputError as error:
            raise row.error(error.column, error.message) from None
        except MachineError:
            # There is no such framework here.
            return

    def _check(self, row: Row, tasks: Tasks) -> None:
        task, include_path = row.typed.task_path, row.typed.include_path
        unknown = tasks.find_unknown(task, include_path)
        is_certain = not frameworks.is_resident(row.typed.eval_suite)
        if unknown and (is_certain or runs_here(self._cluster, row.typed.eval_suite)):
            raise InputError(unknown, column="task_path")
        if unknown:
            self._warn(row, f"{unknown}; jobs may have another version")

    def _warn(self, row: Row, text: str) -> None:
        self._warnings += 1
        if self._warnings <= _SHOWN:
            self._log(f"{row.source}:{row.line}: task_path: {text}")
