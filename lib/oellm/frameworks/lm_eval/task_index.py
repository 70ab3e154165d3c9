"""The names of lm-eval's tasks, groups and tags, from a cache of its own scan.

Its TaskManager parses some 14,000 YAML files each time it starts, which takes about ten seconds.
What names mean is kept in JSON files, one for the tasks that come with lm-eval and one for each
directory of further tasks. A file is good for one version and one place of lm-eval, and for a
directory as it was when the file was written; whatever else it finds, or cannot read or write,
means a new scan.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from oellm.core import atomic, json_codec
from oellm.core.paths import cache_directory
from oellm.errors import InputError, MachineError, nearest

# Part of every cache file's name: another layout of the files is another file.
_LAYOUT = 1
# Directories of installed packages, whose files change only with the version.
_INSTALLED = ("site-packages", "dist-packages")
_KINDS = {"TASK": "task", "PY_TASK": "class", "GROUP": "group", "TAG": "tag"}


class Entry(NamedTuple):
    """What a name stands for."""

    # task, class (a task written in Python), group or tag.
    kind: str
    # The YAML file, relative to the directory that was scanned; empty for a tag.
    path: str
    # Of a task the keys of its merged config that say where its data come from; of a group its
    # merged config; of a tag nothing.
    config: dict[str, Any]
    # The tags of a task, the tasks of a tag.
    tags: list[str]


class TaskIndex(NamedTuple):
    """The names that one directory defines."""

    root: str
    entries: Mapping[str, Entry]


class TaskIndices:
    """The indices of this machine's lm-eval and of directories, each read once.

    `report` is told when a scan begins that takes its time.
    """

    def __init__(self, environ: Mapping[str, str], report: Callable[[str], None]) -> None:
        self._cache = cache_directory(environ)
        self._report = report
        self._read: dict[str, TaskIndex] = {"": TaskIndex("", {})}

    def shipped(self) -> TaskIndex:
        """Return the index of the tasks that come with lm-eval.

        Raises MachineError where lm-eval is not installed.
        """
        return self.directory(os.path.join(_package(), "tasks"))

    def directory(self, path: str) -> TaskIndex:
        """Return the index of a directory of tasks, an empty one for an empty path."""
        if path not in self._read:
            self._read[path] = self._cached(os.path.abspath(path))
        return self._read[path]

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, where there is no such task, file or directory."""
        if include_path and not os.path.isdir(include_path):
            raise InputError(f"{include_path}: no such directory", column="include_path")
        if is_file(task):
            if not os.path.isfile(task):
                raise InputError(f"{task}: no such file", column="task_path")
        elif task not in (own := self.directory(include_path).entries):
            known = self.shipped().entries
            if task not in known:
                hint = nearest(task, [*known, *own])
                text = f"lm-eval has no task, group or tag {task!r}{hint}"
                raise InputError(text, column="task_path")

    def _cached(self, root: str) -> TaskIndex:
        version = _version()
        file = self._cache / f"tasks-{version}-{_digest(root, version)}.json"
        try:
            loaded = json_codec.loads(file.read_bytes())
            return TaskIndex(root, {name: _entry(*fields) for name, fields in loaded.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            if _is_installed(root):
                self._report(f"indexing the tasks of lm-eval {version}, once: about 10 s")
            entries = dict(_scanned(root))
        # A full or read-only disk costs the next command a scan, and this one nothing.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(file, json_codec.dumps(entries))
        return TaskIndex(root, entries)


def _entry(kind: str, path: str, config: dict[str, Any], tags: list[str]) -> Entry:
    # Others may have written the cache: what it names must be below the directory scanned.
    if os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError(f"expected a path below the directory, got {path!r}")
    return Entry(kind, path, config, tags)


def is_file(task: str) -> bool:
    """Return whether a task is named by its YAML file."""
    return task.endswith((".yaml", ".yml"))


def _package() -> str:
    import importlib.util

    # Finding it does not import it.
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MachineError("lm_eval is not installed, so its task names are not known")
    return next(iter(spec.submodule_search_locations))


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("lm_eval")


def _digest(root: str, version: str) -> str:
    key = [_LAYOUT, version, root, *([] if _is_installed(root) else _signature(root))]
    return hashlib.sha256(json_codec.dumps(key)).hexdigest()[:16]


def _is_installed(root: str) -> bool:
    return any(f"/{name}/" in root for name in _INSTALLED)


def _signature(root: str) -> list[Any]:
    """Return the name, size and time of change of every YAML file below a directory."""
    found = []
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            # A file that another includes need not have the ending.
            if (is_file(name) or "." not in name) and os.path.exists(path):
                status = os.stat(path)
                found.append([path, status.st_size, status.st_mtime_ns])
    return found


def _scanned(root: str) -> Iterator[tuple[str, Entry]]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=root, include_defaults=False)
    for name, entry in manager.task_index.items():
        path = os.path.relpath(entry.yaml_path, root) if entry.yaml_path else ""
        kind = _KINDS[entry.kind.name]
        yield name, Entry(kind, path, _relevant(kind, entry.cfg or {}), sorted(entry.tags))


def _relevant(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    if kind == "group":
        return config
    kept = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
    return {key: config[key] for key in kept if config.get(key) is not None}
