"""The names of lm-eval's tasks, groups and tags, cached on disk.

lm-eval's TaskManager parses about 14,000 YAML files each time it starts, which takes ten seconds.
We keep what it finds in JSON files: one for the tasks that come with lm-eval, and one for each
directory of further tasks. A file is valid for one version and location of lm-eval, and for the
state of the directory when the file was written. If there is no valid file, or it cannot be read
or written, the directory is scanned again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oellm.core import atomic, json_codec
from oellm.core.log import Log
from oellm.core.paths import cache_directory
from oellm.core.regular_files import read_regular
from oellm.errors import InputError, MachineError, nearest

# Part of every cache file's name; a new layout of the files gets a new number.
_LAYOUT = 1
# Directories of installed packages, whose files change only with the version.
_INSTALLED = ("site-packages", "dist-packages")
# Our names for the kinds of lm-eval's index entries.
KINDS = {"TASK": "task", "PY_TASK": "class", "GROUP": "group", "TAG": "tag"}


class IndexEntry(NamedTuple):
    """The meaning of one name.

    Attributes:
        kind: task, class (a task written in Python), group or tag.
        path: The YAML file, relative to the scanned directory; empty for a tag.
        config: For a task, those keys of its merged config that tell where its data come from; for
            a group, its merged config; for a tag, nothing.
        tags: For a task, its tags; for a tag, its tasks.
    """

    kind: str
    path: str
    config: dict[str, Any]
    tags: list[str]


class TaskIndex(NamedTuple):
    """The names that one directory defines."""

    root: str
    entries: Mapping[str, IndexEntry]


class TaskIndices:
    """The indices of this machine's lm-eval and of further directories, each read once.

    `log` gets a message when a slow scan begins.
    """

    def __init__(self, environ: Mapping[str, str], log: Log) -> None:
        self._cache = cache_directory(environ)
        self._log = log
        self._indices: dict[str, TaskIndex] = {"": TaskIndex("", {})}

    def shipped(self) -> TaskIndex:
        """Return the index of the tasks that come with lm-eval.

        Raises MachineError if lm-eval is not installed.
        """
        return self.directory(os.path.join(_package_directory(), "tasks"))

    def directory(self, path: str) -> TaskIndex:
        """Return the index of a directory of tasks; an empty index for an empty path."""
        if path not in self._indices:
            self._indices[path] = self._load_index(os.path.abspath(path))
        return self._indices[path]

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, if the task, file or directory does not exist."""
        if include_path and not os.path.isdir(include_path):
            raise InputError(f"{include_path}: no such directory", column="include_path")
        if is_file(task):
            if not os.path.isfile(task):
                raise InputError(f"{task}: no such file", column="task_path")
        elif task not in (own := self.directory(include_path).entries):
            shipped = self.shipped().entries
            if task not in shipped:
                hint = nearest(task, [*shipped, *own])
                text = f"lm-eval has no task, group or tag {task!r}{hint}"
                raise InputError(text, column="task_path")

    def _load_index(self, root: str) -> TaskIndex:
        version = _version()
        file = self._cache / f"tasks-{version}-{_digest(root, version)}.json"
        try:
            loaded = json_codec.loads(read_regular(file))
            return TaskIndex(root, {name: _entry(*fields) for name, fields in loaded.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            if _is_installed(root):
                self._log(f"indexing the tasks of lm-eval {version}, once: about 10 s")
            entries = dict(_scan(root))
        # If the disk is full or read-only, the next command has to scan again; this one goes on.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(file, json_codec.dumps(entries))
        return TaskIndex(root, entries)


def _entry(kind: str, path: str, config: dict[str, Any], tags: list[str]) -> IndexEntry:
    # Somebody else may have written the cache: all paths must be below the scanned directory.
    if os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError(f"expected a path below the directory, got {path!r}")
    return IndexEntry(kind, path, config=config, tags=tags)


def is_file(task: str) -> bool:
    """Return whether a task is given as the path of its YAML file."""
    return task.endswith((".yaml", ".yml"))


def _package_directory() -> str:
    import importlib.util

    # This finds the package without importing it.
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
    """Return the path, size and modification time of every YAML file below a directory."""
    files = []
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            # A file that another one includes may lack the suffix.
            if (is_file(name) or "." not in name) and os.path.exists(path):
                status = os.stat(path)
                files.append([path, status.st_size, status.st_mtime_ns])
    return files


def _scan(root: str) -> Iterator[tuple[str, IndexEntry]]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=root, include_defaults=False)
    for name, entry in manager.task_index.items():
        path = os.path.relpath(entry.yaml_path, root) if entry.yaml_path else ""
        kind = KINDS[entry.kind.name]
        yield (
            name,
            IndexEntry(
                kind, path, config=_kept_config(kind, entry.cfg or {}), tags=sorted(entry.tags)
            ),
        )


def _kept_config(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    if kind == "group":
        return config
    kept = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
    return {key: config[key] for key in kept if config.get(key) is not None}
