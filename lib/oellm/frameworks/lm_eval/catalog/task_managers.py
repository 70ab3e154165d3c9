"""lm-eval's TaskManagers, built from cached indices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oellm.errors import InputError, MachineError
from oellm.frameworks.lm_eval import patches
from oellm.frameworks.lm_eval.catalog import data_sets, task_digest, task_lookup, task_tree
from oellm.frameworks.lm_eval.catalog.data_sets import LmEvalDataSet
from oellm.frameworks.lm_eval.catalog.task_index import KINDS, TaskIndex, TaskIndices, is_file
from oellm.frameworks.lm_eval.catalog.task_yaml import TaskYamlError


class TaskManagers:
    """The TaskManagers of lm-eval for the tasks asked for, built from cached indices.

    Reading the index of all tasks that come with lm-eval takes ten seconds if it is not cached,
    reading that of one directory about 0.05 s. So the first is read only if one of its tasks is
    asked for.
    """

    def __init__(self, indices: TaskIndices) -> None:
        self._indices = indices
        # For the ids of indices: the indices, which keep the ids theirs, and the manager.
        self._managers: dict[tuple[int, ...], tuple[list[TaskIndex], Any]] = {}

    def preload(self, task: str, include_path: str) -> None:
        """Read the indices for a task, so that processes forked from this one have them.

        Whatever is wrong with the task is for `manager` to tell.
        """
        with contextlib.suppress(InputError, MachineError, OSError):
            self._proven_indices(task, include_path)

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, if the task, file or directory does not exist."""
        task_lookup.require_task(self._indices, task, include_path)

    def find_unknown(self, task: str, include_path: str) -> str:
        """Return that there is no such task, with the nearest name, unless that needs a slow scan.

        Raises InputError, with the column, for a mistake in the user's own files.
        """
        return task_lookup.find_unknown(self._indices, task, include_path)

    def manager(self, task: str, include_path: str) -> Any:
        """Return a TaskManager that knows a task, group, tag or YAML file and all its members.

        Raises InputError, with the column, if the task, file or directory does not exist.
        """
        found = self._proven_indices(task, include_path)
        key = tuple(map(id, found))
        if key not in self._managers:
            # As in lm-eval, a task of the directory replaces a shipped one of the same name.
            self._managers[key] = found, _build_manager(reversed(found))
        return self._managers[key][1]

    def data_sets(self, task: str, include_path: str) -> list[LmEvalDataSet]:
        """Return the data sets of a task, group, tag or YAML file, as far as the configs tell.

        Raises InputError like `manager`.
        """
        found = self._proven_indices(task, include_path)
        try:
            return data_sets.find_data_sets(task_tree.task_roots(task), found)
        except TaskYamlError as error:
            raise InputError(str(error), column="task_path") from None

    def digest(self, task: str, include_path: str) -> str:
        """Return the digest of a task (task_digest.compute_digest).

        Empty if the index of lm-eval's own tasks is needed and would have to be made: a look at a
        task's state is never slow. Raises InputError.
        """
        found = self._known_indices(task, include_path)
        return "" if found is None else task_digest.compute_digest(task, found)

    def version(self, task: str, include_path: str) -> str:
        """Return the version of a task (task_digest.find_version); empty like `digest`."""
        found = self._known_indices(task, include_path)
        return "" if found is None else task_digest.find_version(task, found)

    def knows(self, task: str, include_path: str) -> bool:
        """Return whether the index that tells of a task is there, without a slow scan.

        Raises InputError if there is no such task.
        """
        return self._known_indices(task, include_path) is not None

    def local_paths(self, task: str, include_path: str) -> set[str]:
        """Return the files of a task on this machine (task_digest.find_local_paths); like `digest`.

        Those of lm-eval itself are left out.
        """
        found = self._known_indices(task, include_path) or []
        roots = {index.root for index in self._indices.own(include_path)}
        own = [index for index in found if index.root in roots]
        return task_digest.find_local_paths(task, own)

    def directories(self, include_path: str) -> list[str]:
        """Return the directories of a row's sources of tasks; raises SourceError."""
        return self._indices.directories(include_path)

    def unsafe_tasks(self, task: str, include_path: str) -> list[str]:
        """Return the tasks behind a name that run code that a model writes; like `digest`."""
        found = self._known_indices(task, include_path) or []
        try:
            return [
                name or str(config.get("task"))
                for name, config, _ in task_tree.definitions(task, found)
                if config.get("unsafe_code")
            ]
        except TaskYamlError as error:
            raise InputError(str(error), column="task_path") from None

    def _known_indices(self, task: str, include_path: str) -> list[TaskIndex] | None:
        task_lookup.require_files(self._indices, task, include_path)
        found = self._prove(task, include_path, may_scan=False)
        if found is not None and not is_file(task):
            task_lookup.require_name(task, found, self._indices.own(include_path))
        return found

    def _proven_indices(self, task: str, include_path: str) -> list[TaskIndex]:
        self.require(task, include_path)
        found = self._prove(task, include_path, may_scan=True)
        assert found is not None
        return found

    def _prove(self, task: str, include_path: str, *, may_scan: bool) -> list[TaskIndex] | None:
        try:
            return task_tree.proven_indices(self._indices, task, include_path, may_scan=may_scan)
        except TaskYamlError as error:
            raise InputError(str(error), column="task_path") from None


def _build_manager(indices: Iterable[TaskIndex]) -> Any:
    from lm_eval.tasks import TaskManager

    kinds = {ours: theirs for theirs, ours in KINDS.items()}
    manager = TaskManager(include_defaults=False)
    for index in indices:
        for name, entry in index.entries.items():
            patches.set_index_entry(
                manager,
                name,
                kind=kinds[entry.kind],
                path=Path(index.root, entry.path) if entry.path else None,
                tags=set(entry.tags),
            )
    return manager
