"""The tasks behind a name: the members of groups and tags, and theirs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.errors import InputError
from oellm.frameworks.lm_eval.catalog import task_yaml
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndex, TaskIndices, is_file
from oellm.frameworks.lm_eval.catalog.task_yaml import TaskYamlError


class Reached(NamedTuple):
    """A name that a task, group or tag leads to.

    Attributes:
        name: The name.
        home: The index that defines it; None if no index does.
    """

    name: str
    home: TaskIndex | None


class Definition(NamedTuple):
    """What a name stands for.

    Attributes:
        name: The name; empty for a task that is given as a file.
        config: Its merged configuration.
        directory: The directory of its file; empty if it has none.
    """

    name: str
    config: Mapping[str, Any]
    directory: str


class TaskRoots(NamedTuple):
    """What a task's name, or the path of its file, stands for.

    Attributes:
        members: Names, and groups and tasks that are defined within a group.
        config: The configuration in the file; None for a name.
    """

    members: list[Any]
    config: dict[str, Any] | None


def task_roots(task: str) -> TaskRoots:
    """Return what a row's task stands for; raises TaskYamlError for a damaged file."""
    if not is_file(task):
        return TaskRoots([task], None)
    config = task_yaml.read_config(task)
    return TaskRoots(member_list(config.get("task")) if "group" in config else [], config)


def member_list(members: Any) -> list[Any]:
    """Return the value of a group's key `task`; empty if that is no list."""
    return members if isinstance(members, list) else []


def reach(members: Iterable[Any], indices: Sequence[TaskIndex]) -> Iterator[Reached]:
    """Yield each name that members lead to, once; of two indices, the first one counts.

    A group whose file cannot be read leads to nothing.
    """
    waiting = list(members)
    seen: set[str] = set()
    while waiting:
        member = waiting.pop(0)
        name = member
        if isinstance(member, dict):
            name = member.get("group") or member.get("task")
        if not isinstance(name, str) or name in seen:
            continue
        seen.add(name)
        index = next((each for each in indices if name in each.entries), None)
        yield Reached(name, index)
        if index is None:
            # A group that is defined within a group.
            waiting += member_list(member.get("task")) if isinstance(member, dict) else []
            continue
        entry = index.entries[name]
        if entry.kind == "tag":
            waiting += entry.tags
        elif entry.kind == "group":
            with contextlib.suppress(TaskYamlError):
                waiting += member_list(index.config(name).get("task"))


def definitions(task: str, indices: Sequence[TaskIndex]) -> Iterator[Definition]:
    """Yield what a task and the names that it leads to stand for, the task first.

    Raises TaskYamlError for a damaged file.
    """
    roots = task_roots(task)
    if roots.config is not None:
        yield Definition("", roots.config, os.path.dirname(os.path.realpath(task)))
    for name, index in reach(roots.members, indices):
        entry = index.entries[name] if index is not None else None
        if index is None or entry is None:
            # Defined within a group, whose configuration has it.
            yield Definition(name, {}, "")
        elif entry.kind == "tag":
            yield Definition(name, {"tasks of the tag": entry.tags}, "")
        else:
            path = os.path.join(index.root, entry.path)
            yield Definition(name, index.config(name), os.path.dirname(path))


def definition_files(task: str, indices: Sequence[TaskIndex]) -> Iterator[str]:
    """Yield the files that define a task and the names that it leads to, and what they include.

    Raises TaskYamlError for a damaged file.
    """
    if is_file(task):
        yield from task_yaml.read_files(task)
    for name, index in reach(task_roots(task).members, indices):
        if index is not None and (path := index.entries[name].path):
            yield from task_yaml.read_files(os.path.join(index.root, path))


def find_home(name: str, own: Sequence[TaskIndex]) -> TaskIndex | None:
    """Return which index of a user's sources defines a name; None if none does.

    Raises InputError, with both files, if two do: neither may silently take the other's place.
    """
    homes = [index for index in own if name in index.entries]
    # One file may lie in two sources, if one is a directory of the other.
    files = {os.path.realpath(path): path for path in (_file(name, index) for index in homes)}
    if len(files) > 1:
        first, second, *_ = (task_yaml.find_place(path, f" {name}") for path in files.values())
        text = f"{first} and {second} both define {name}: name one of the sources only"
        raise InputError(text, column="include_path")
    return homes[0] if homes else None


def _file(name: str, index: TaskIndex) -> str:
    """Return the file that defines a name; for a tag, that of one of its tasks."""
    entry = index.entries[name]
    if entry.kind == "tag" and entry.tags:
        entry = index.entries.get(entry.tags[0], entry)
    return os.path.join(index.root, entry.path)


def proven_indices(
    indices: TaskIndices, task: str, include_path: str, *, may_scan: bool = True
) -> list[TaskIndex] | None:
    """Return the indices that a task needs, those of its sources first.

    lm-eval's own is one of them only if it is needed. All names that the task leads to are what
    the files say now: an index that is not true is made anew. Returns None if lm-eval's is needed
    and would have to be made, unless `may_scan`. Raises TaskYamlError for a damaged file,
    InputError for a name that two sources define, and MachineError if lm-eval's is needed and
    lm-eval is not installed.
    """
    members = task_roots(task).members
    shipped = indices.shipped if may_scan else indices.known_shipped
    found = _find_indices(indices.own(include_path), members, shipped)
    # A scan of the directory may show that a task of lm-eval's is needed.
    for _ in range(2):
        false = {
            index.root
            for name, index in reach(members, found or [])
            if index is not None and not index.is_true(name)
        }
        if not false:
            break
        for root in false:
            indices.rescan(root)
        found = _find_indices(indices.own(include_path), members, shipped)
    own = indices.own(include_path)
    for name, _ in reach(members, found or own) if len(own) > 1 else ():
        find_home(name, own)
    return found


def _find_indices(
    own: list[TaskIndex], members: Sequence[Any], shipped: Callable[[], TaskIndex | None]
) -> list[TaskIndex] | None:
    if all(index is not None for _, index in reach(members, own)):
        return own
    found = shipped()
    return None if found is None else [*own, found]
