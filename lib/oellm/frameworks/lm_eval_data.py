"""lm-evaluation-harness: finding tasks, and filling the caches with their data and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from oellm.errors import InputError, nearest


class TaskIndices:
    """The indices of lm-eval's tasks, each built once.

    That of all tasks that come with lm-eval takes 6 to 10 s, that of one directory some 0.05 s:
    the first is built only for who names one of its tasks.
    """

    def __init__(self) -> None:
        self._defaults: Any = None
        self._own: dict[str, Any] = {}
        self._joined: dict[str, Any] = {}

    def manager(self, task: str, include_path: str) -> Any:
        """Return a TaskManager that can load a task, group, tag or YAML file and all it names.

        Raises InputError, with the column, where there is no such task, file or directory.
        """
        if include_path and not os.path.isdir(include_path):
            raise InputError(f"{include_path}: no such directory", column="include_path")
        is_file = task.endswith((".yaml", ".yml"))
        if is_file and not os.path.isfile(task):
            raise InputError(f"{task}: no such file", column="task_path")
        own = self._directory(include_path)
        if _is_complete(_members_of_file(task) if is_file else [task], own.task_index):
            return own
        manager = self._all(include_path)
        if not is_file and task not in manager.task_index:
            hint = nearest(task, manager.task_index)
            raise InputError(
                f"lm-eval has no task, group or tag {task!r}{hint}", column="task_path"
            )
        return manager

    def _directory(self, include_path: str) -> Any:
        from lm_eval.tasks import TaskManager

        if include_path not in self._own:
            self._own[include_path] = TaskManager(
                include_path=include_path or None, include_defaults=False
            )
        return self._own[include_path]

    def _all(self, include_path: str) -> Any:
        from lm_eval.tasks import TaskManager

        if self._defaults is None:
            self._defaults = TaskManager()
        if not include_path:
            return self._defaults
        if include_path not in self._joined:
            # As lm-eval does it, tasks of the directory come before its own of the same name.
            joined = TaskManager(include_path=include_path, include_defaults=False)
            for name, entry in self._defaults.task_index.items():
                joined.task_index.setdefault(name, entry)
            self._joined[include_path] = joined
        return self._joined[include_path]


def fetch(indices: TaskIndices, task: str, include_path: str) -> int:
    """Build a task, group or tag, which downloads its data and metrics; return how many tasks.

    Raises InputError as TaskIndices.manager does, and whatever lm-eval and the task's code raise.
    """
    built = indices.manager(task, include_path).load([task])["tasks"]
    for member in built.values():
        _check_metrics(member)
    return len(built)


def _check_metrics(task: Any) -> None:
    """Raise what keeps a metric from being loaded: lm-eval only logs it, and fails at the end."""
    config = getattr(task, "config", None)
    if getattr(config, "process_results", None) is not None:
        return
    for name, function in getattr(task, "_metric_fn_list", {}).items():
        if function is None:
            import evaluate

            evaluate.load(name)


def _members_of_file(path: str) -> list[Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    return _listed(config.get("task")) if "group" in config else []


def _listed(members: Any) -> list[Any]:
    return members if isinstance(members, list) else []


def _is_complete(members: Iterable[Any], index: Mapping[str, Any]) -> bool:
    """Return whether an index has all of these tasks and groups, and all that the groups name."""
    for member in members:
        name: Any = member
        if isinstance(member, dict):
            name = member.get("group") or member.get("task")
        if name not in index:
            return False
        config = index[name].cfg or {}
        if "group" in config and not _is_complete(_listed(config.get("task")), index):
            return False
    return True
