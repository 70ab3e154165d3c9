"""lm-evaluation-harness: finding tasks, and where their data come from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from oellm.frameworks.lm_eval.task_index import Entry, TaskIndex, TaskIndices, is_file


class DataSet(NamedTuple):
    """One call of load_dataset: what it is given, its options as canonical JSON."""

    path: str
    name: str | None
    options: str

    def __str__(self) -> str:
        return f"{self.path}/{self.name}" if self.name else self.path

    def load(self) -> None:
        """Load it, which fills the cache; raises whatever `datasets` raises."""
        import json

        import datasets

        options = json.loads(self.options)
        try:
            datasets.load_dataset(self.path, self.name, **options)
        except (OSError, ValueError):
            # A part of the cache may be lost or cut off: make it anew from what was downloaded.
            again = {"download_mode": "reuse_cache_if_exists", **options}
            datasets.load_dataset(self.path, self.name, **again)


class TaskManagers:
    """The TaskManagers of lm-eval that can load the tasks asked for, made from cached indices.

    The index of all tasks that come with lm-eval takes ten seconds where it is not cached, that of
    one directory some 0.05 s: the first is read only for who names one of its tasks.
    """

    def __init__(self, indices: TaskIndices) -> None:
        self._indices = indices
        self._managers: dict[tuple[str, bool], Any] = {}

    def manager(self, task: str, include_path: str) -> Any:
        """Return a TaskManager that can load a task, group, tag or YAML file and all it names.

        Raises InputError, with the column, where there is no such task, file or directory.
        """
        needs_shipped = self._needs_shipped(task, include_path)
        key = include_path, needs_shipped
        if key not in self._managers:
            indices = [self._indices.directory(include_path)]
            if needs_shipped:
                # As lm-eval does it, tasks of the directory come before its own of the same name.
                indices.insert(0, self._indices.shipped())
            self._managers[key] = _manager(indices)
        return self._managers[key]

    def data_sets(self, task: str, include_path: str) -> list[DataSet]:
        """Return what a task, group, tag or YAML file loads, as far as its configs say it.

        Tasks written in Python, or with a function that makes their data, load what their code
        says; they are left out. Raises InputError as `manager` does.
        """
        entries = dict(self._indices.directory(include_path).entries)
        if self._needs_shipped(task, include_path):
            entries = {**self._indices.shipped().entries, **entries}
        members: list[Any] = [task]
        if is_file(task):
            config = _config_of_file(task)
            if "group" not in config:
                return list(_loaded("task", config))
            members = _listed(config.get("task"))
        return list(dict.fromkeys(_enumerated(members, entries, {})))

    def _needs_shipped(self, task: str, include_path: str) -> bool:
        self._indices.require(task, include_path)
        members = [task]
        if is_file(task):
            config = _config_of_file(task)
            members = _listed(config.get("task")) if "group" in config else []
        return not _is_complete(members, self._indices.directory(include_path).entries)


def task_managers() -> TaskManagers:
    """Return the TaskManagers of this process, whose indices are kept where the user's are."""
    return TaskManagers(TaskIndices(os.environ, logging.getLogger("oellm").warning))


def _manager(indices: Iterable[TaskIndex]) -> Any:
    from pathlib import Path

    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry as Known
    from lm_eval.tasks._index import Kind

    kinds = {"task": Kind.TASK, "class": Kind.PY_TASK, "group": Kind.GROUP, "tag": Kind.TAG}
    manager = TaskManager(include_defaults=False)
    for root, entries in indices:
        for name, entry in entries.items():
            path = Path(root, entry.path) if entry.path else None
            config = entry.config if entry.kind == "group" else None
            manager.task_index[name] = Known(name, kinds[entry.kind], path, config, set(entry.tags))
    return manager


def _config_of_file(path: str) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(path, resolve_func=False)
    return config


def _listed(members: Any) -> list[Any]:
    return members if isinstance(members, list) else []


def _is_complete(members: Iterable[Any], index: Mapping[str, Entry]) -> bool:
    """Return whether an index has all of these tasks and groups, and all that the groups name."""
    for member in members:
        name: Any = member
        if isinstance(member, dict):
            name = member.get("group") or member.get("task")
        if name not in index:
            return False
        config = index[name].config
        if "group" in config and not _is_complete(_listed(config.get("task")), index):
            return False
    return True


def _enumerated(
    members: Iterable[Any], index: Mapping[str, Entry], overrides: dict[str, Any]
) -> Iterator[DataSet]:
    """Yield what tasks and the members of groups load; a group's own keys go to its members."""
    for member in members:
        given = dict(member) if isinstance(member, dict) else {"task": member}
        name = given.pop("group", None) or given.pop("task", None)
        inherited = {**overrides, **given}
        entry = index.get(name) if isinstance(name, str) else None
        if entry is None:
            if isinstance(member, dict):
                yield from _enumerated(_listed(member.get("task")), index, overrides)
                yield from _loaded("task", inherited)
        elif entry.kind == "tag":
            yield from _enumerated(entry.tags, index, inherited)
        elif entry.kind == "group":
            own = {key: value for key, value in entry.config.items() if key in _DATA_KEYS}
            yield from _enumerated(_listed(entry.config.get("task")), index, {**own, **inherited})
        else:
            yield from _loaded(entry.kind, {**entry.config, **inherited})


_DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")


def _loaded(kind: str, config: Mapping[str, Any]) -> Iterator[DataSet]:
    path = config.get("dataset_path")
    if kind == "class" or config.get("custom_dataset") or not isinstance(path, str):
        return
    import json

    options = dict(config.get("dataset_kwargs") or {})
    # Since `datasets` 4 no code of a data set is run, and lm-eval takes the option out.
    options.pop("trust_remote_code", None)
    yield DataSet(path, config.get("dataset_name"), json.dumps(options, sort_keys=True))
