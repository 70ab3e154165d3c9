"""lm-eval's TaskManagers, built from cached indices, and the data sets that tasks load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from oellm.frameworks.lm_eval import patches
from oellm.frameworks.lm_eval.catalog.task_index import (
    KINDS,
    IndexEntry,
    TaskIndex,
    TaskIndices,
    is_file,
)

_DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")


class LmEvalDataSet(NamedTuple):
    """One call of load_dataset: its arguments, the keyword arguments as canonical JSON."""

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
            # Part of the cache may be missing or truncated: build it again from the downloads.
            again = {"download_mode": "reuse_cache_if_exists", **options}
            datasets.load_dataset(self.path, self.name, **again)


class TaskManagers:
    """The TaskManagers of lm-eval for the tasks asked for, built from cached indices.

    Reading the index of all tasks that come with lm-eval takes ten seconds if it is not cached,
    reading that of one directory about 0.05 s. So the first is read only if one of its tasks is
    asked for.
    """

    def __init__(self, indices: TaskIndices) -> None:
        self._indices = indices
        self._managers: dict[tuple[str, bool], Any] = {}

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, if the task, file or directory does not exist."""
        self._indices.require(task, include_path)

    def manager(self, task: str, include_path: str) -> Any:
        """Return a TaskManager that knows a task, group, tag or YAML file and all its members.

        Raises InputError, with the column, if the task, file or directory does not exist.
        """
        needs_shipped = self._needs_shipped(task, include_path)
        key = include_path, needs_shipped
        if key not in self._managers:
            indices = [self._indices.directory(include_path)]
            if needs_shipped:
                # As in lm-eval, a task of the directory replaces a shipped one of the same name.
                indices.insert(0, self._indices.shipped())
            self._managers[key] = _build_manager(indices)
        return self._managers[key]

    def data_sets(self, task: str, include_path: str) -> list[LmEvalDataSet]:
        """Return the data sets of a task, group, tag or YAML file, as far as the configs tell.

        Tasks written in Python, and tasks with a function that makes their data, are left out:
        only their code knows what they load. Raises InputError like `manager`.
        """
        entries = dict(self._indices.directory(include_path).entries)
        if self._needs_shipped(task, include_path):
            entries = {**self._indices.shipped().entries, **entries}
        members: list[Any] = [task]
        if is_file(task):
            config = patches.read_task_file(task)
            if "group" not in config:
                return list(_config_data_sets("task", config))
            members = _member_list(config.get("task"))
        return list(dict.fromkeys(_member_data_sets(members, entries, {})))

    def _needs_shipped(self, task: str, include_path: str) -> bool:
        self._indices.require(task, include_path)
        members = [task]
        if is_file(task):
            config = patches.read_task_file(task)
            members = _member_list(config.get("task")) if "group" in config else []
        return not _is_complete(members, self._indices.directory(include_path).entries)


def _build_manager(indices: Iterable[TaskIndex]) -> Any:
    from pathlib import Path

    from lm_eval.tasks import TaskManager

    kinds = {ours: theirs for theirs, ours in KINDS.items()}
    manager = TaskManager(include_defaults=False)
    for root, entries in indices:
        for name, entry in entries.items():
            patches.set_index_entry(
                manager,
                name,
                kind=kinds[entry.kind],
                path=Path(root, entry.path) if entry.path else None,
                config=entry.config if entry.kind == "group" else None,
                tags=set(entry.tags),
            )
    return manager


def _member_list(members: Any) -> list[Any]:
    return members if isinstance(members, list) else []


def _is_complete(members: Iterable[Any], index: Mapping[str, IndexEntry]) -> bool:
    """Return whether an index has all these tasks and groups, and all members of the groups."""
    for member in members:
        name: Any = member
        if isinstance(member, dict):
            name = member.get("group") or member.get("task")
        if name not in index:
            return False
        config = index[name].config
        if "group" in config and not _is_complete(_member_list(config.get("task")), index):
            return False
    return True


def _member_data_sets(
    members: Iterable[Any], index: Mapping[str, IndexEntry], overrides: dict[str, Any]
) -> Iterator[LmEvalDataSet]:
    """Yield the data sets of tasks and of groups' members, which inherit the group's own keys."""
    for member in members:
        own = dict(member) if isinstance(member, dict) else {"task": member}
        name = own.pop("group", None) or own.pop("task", None)
        inherited = {**overrides, **own}
        entry = index.get(name) if isinstance(name, str) else None
        if entry is None:
            if isinstance(member, dict):
                yield from _member_data_sets(_member_list(member.get("task")), index, overrides)
                yield from _config_data_sets("task", inherited)
        elif entry.kind == "tag":
            yield from _member_data_sets(entry.tags, index, inherited)
        elif entry.kind == "group":
            shared = {key: value for key, value in entry.config.items() if key in _DATA_KEYS}
            tasks = _member_list(entry.config.get("task"))
            yield from _member_data_sets(tasks, index, {**shared, **inherited})
        else:
            yield from _config_data_sets(entry.kind, {**entry.config, **inherited})


def _config_data_sets(kind: str, config: Mapping[str, Any]) -> Iterator[LmEvalDataSet]:
    path = config.get("dataset_path")
    if kind == "class" or config.get("custom_dataset") or not isinstance(path, str):
        return
    import json

    options = dict(config.get("dataset_kwargs") or {})
    # Version 4 of `datasets` runs no code of a data set, and lm-eval removes the option.
    options.pop("trust_remote_code", None)
    yield LmEvalDataSet(path, config.get("dataset_name"), json.dumps(options, sort_keys=True))
