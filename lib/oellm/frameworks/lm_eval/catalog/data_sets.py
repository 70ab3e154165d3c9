"""The data sets that tasks load, as far as their configurations tell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.frameworks.lm_eval.catalog.task_index import TaskIndex
from oellm.frameworks.lm_eval.catalog.task_tree import TaskRoots, member_list

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
        import datasets

        options = json.loads(self.options)
        try:
            datasets.load_dataset(self.path, self.name, **options)
        except (OSError, ValueError):
            # Part of the cache may be missing or truncated: build it again from the downloads.
            again = {"download_mode": "reuse_cache_if_exists", **options}
            datasets.load_dataset(self.path, self.name, **again)


def find_data_sets(roots: TaskRoots, indices: Sequence[TaskIndex]) -> list[LmEvalDataSet]:
    """Return the data sets of a task, group, tag or YAML file, each once.

    Tasks written in Python, and tasks with a function that makes their data, are left out: only
    their code knows what they load. Raises TaskYamlError for a damaged file.
    """
    if roots.config is not None and "group" not in roots.config:
        return list(_config_data_sets("task", roots.config))
    return list(dict.fromkeys(_member_data_sets(roots.members, indices, {})))


def _member_data_sets(
    members: Iterable[Any], indices: Sequence[TaskIndex], overrides: dict[str, Any]
) -> Iterator[LmEvalDataSet]:
    """Yield the data sets of tasks and of groups' members, which inherit the group's own keys."""
    for member in members:
        own = dict(member) if isinstance(member, dict) else {"task": member}
        name = own.pop("group", None) or own.pop("task", None)
        inherited = {**overrides, **own}
        index = next(
            (each for each in indices if isinstance(name, str) and name in each.entries), None
        )
        if index is None:
            if isinstance(member, dict):
                yield from _member_data_sets(member_list(member.get("task")), indices, overrides)
                yield from _config_data_sets("task", inherited)
            continue
        entry = index.entries[name]
        if entry.kind == "tag":
            yield from _member_data_sets(entry.tags, indices, inherited)
            continue
        config = index.config(name)
        if entry.kind == "group":
            shared = {key: value for key, value in config.items() if key in _DATA_KEYS}
            tasks = member_list(config.get("task"))
            yield from _member_data_sets(tasks, indices, {**shared, **inherited})
        else:
            yield from _config_data_sets(entry.kind, {**config, **inherited})


def _config_data_sets(kind: str, config: Mapping[str, Any]) -> Iterator[LmEvalDataSet]:
    path = config.get("dataset_path")
    if kind == "class" or config.get("custom_dataset") or not isinstance(path, str):
        return
    options = dict(config.get("dataset_kwargs") or {})
    # Version 4 of `datasets` runs no code of a data set, and lm-eval removes the option.
    options.pop("trust_remote_code", None)
    yield LmEvalDataSet(path, config.get("dataset_name"), json.dumps(options, sort_keys=True))
