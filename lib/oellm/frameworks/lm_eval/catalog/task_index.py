"""The names of lm-eval's tasks, groups and tags, cached on disk.

lm-eval's TaskManager parses about 14,000 YAML files each time it starts, which takes ten seconds.
We keep which file defines which name: in one cache file for the tasks that come with lm-eval, and
one for each directory of further tasks. A cache file is valid for one version and location of
lm-eval, and for the state of the directory when the file was written. Without a valid one the
directory is scanned. Nothing but names and paths is kept, and a name counts only if the file at its
path defines it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oellm.core import json_codec
from oellm.core.log import Log
from oellm.core.paths import cache_directory
from oellm.errors import InputError, MachineError
from oellm.frameworks.lm_eval.catalog import task_yaml
from oellm.frameworks.lm_eval.catalog.index_cache import IndexCache
from oellm.frameworks.lm_eval.catalog.task_yaml import TaskYamlError
from oellm.task_sources.cache import source_directories

# Part of every cache file's key; a new layout of the files gets a new number.
_LAYOUT = 2
# Directories of installed packages, whose files change only with the version.
_INSTALLED = ("site-packages", "dist-packages")
# Our names for the kinds of lm-eval's index entries.
KINDS = {"TASK": "task", "PY_TASK": "class", "GROUP": "group", "TAG": "tag"}
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
# Files and folders below a directory of tasks; lm-eval itself has a tenth of this.
_MOST_FILES = 200_000


class IndexEntry(NamedTuple):
    """The meaning of one name.

    Attributes:
        kind: task, class (a task written in Python), group or tag.
        path: The YAML file, relative to the scanned directory; empty for a tag.
        tags: For a task, its tags; for a tag, its tasks.
    """

    kind: str
    path: str
    tags: list[str]


class TaskIndex(NamedTuple):
    """The names that one directory defines.

    Attributes:
        root: The directory.
        entries: What each name means.
        passed_over: Why a file defines no name, by its path relative to the directory. Files that
            are there to be included are none of these.
    """

    root: str
    entries: Mapping[str, IndexEntry]
    passed_over: Mapping[str, str]

    def config(self, name: str) -> dict[str, Any]:
        """Return the merged configuration of a name that is no tag; raises TaskYamlError."""
        return task_yaml.read_config(os.path.join(self.root, self.entries[name].path))

    def is_true(self, name: str) -> bool:
        """Return whether the files of a name, for a tag those of its tasks, define it."""
        entry = self.entries[name]
        if entry.kind == "tag":
            return not entry.path and all(
                task in self.entries
                and self.entries[task].kind != "tag"
                and name in self.entries[task].tags
                and self.is_true(task)
                for task in entry.tags
            )
        try:
            defined, found = _define(self.config(name), entry.path)
        except TaskYamlError:
            return False
        return (defined, found.kind) == (name, entry.kind) and {*found.tags} <= {*entry.tags}


class TaskIndices:
    """The indices of this machine's lm-eval and of further directories, each read once.

    `log` gets a message when a slow scan begins.
    """

    def __init__(self, environ: Mapping[str, str], log: Log) -> None:
        self._environ = environ
        self._cache = IndexCache(cache_directory(environ))
        self._log = log
        self._indices: dict[str, TaskIndex] = {}

    def shipped(self) -> TaskIndex:
        """Return the index of the tasks that come with lm-eval.

        Raises MachineError if lm-eval is not installed.
        """
        return self.directory(_shipped_directory())

    def known_shipped(self) -> TaskIndex | None:
        """Return the same index if that needs no slow scan, else None."""
        try:
            root = _shipped_directory()
        except MachineError:
            return None
        if root not in self._indices:
            index = self._read(root, _Place.of(root))
            if index is None:
                return None
            self._indices[root] = index
        return self._indices[root]

    def own(self, include_path: str) -> list[TaskIndex]:
        """Return the indices of a row's sources of tasks; raises SourceError."""
        return [self.directory(path) for path in self.directories(include_path)]

    def directories(self, include_path: str) -> list[str]:
        """Return the directories of a row's sources of tasks; raises SourceError."""
        return source_directories(include_path, self._environ)

    def directory(self, path: str) -> TaskIndex:
        """Return the index of a directory of tasks."""
        root = os.path.abspath(path)
        if root not in self._indices:
            self._indices[root] = self._load_index(root)
        return self._indices[root]

    def rescan(self, root: str) -> None:
        """Scan the directory of an index again."""
        self._indices[root] = self._scan(root, _Place.of(root))

    def _load_index(self, root: str) -> TaskIndex:
        place = _Place.of(root)
        index = self._read(root, place)
        if index is not None:
            return index
        with self._cache.turn(place.file):
            # Another process may have scanned in the meantime.
            return self._read(root, place) or self._scan(root, place)

    def _read(self, root: str, place: _Place) -> TaskIndex | None:
        try:
            entries, passed_over = self._cache.read(place.file, place.key)
            return TaskIndex(
                root,
                {name: _entry(*fields) for name, fields in entries.items()},
                {str(path): str(reason) for path, reason in passed_over.items()},
            )
        except (ValueError, TypeError, AttributeError):
            return None

    def _scan(self, root: str, place: _Place) -> TaskIndex:
        if _is_installed(root):
            self._log(f"indexing the tasks of lm-eval {_version()}, once: about 5 s")
        index = _scan(root)
        self._cache.write(place.file, place.key, [index.entries, index.passed_over])
        return index


class _Place(NamedTuple):
    """Where the index of a directory is kept, and for which state of the directory."""

    file: str
    key: list[Any]

    @classmethod
    def of(cls, root: str) -> _Place:
        state = [_version()] if _is_installed(root) else _signature(root)
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        digest = hashlib.sha256(json_codec.dumps(state)).hexdigest()
        return cls(f"{name}.json", [_LAYOUT, os.fsencode(root).hex(), digest])


def is_file(task: str) -> bool:
    """Return whether a task is given as the path of its YAML file."""
    return task.endswith((".yaml", ".yml"))


def _entry(kind: str, path: str, tags: list[str]) -> IndexEntry:
    """Return an entry of the cache; raises ValueError or TypeError if it is damaged."""
    is_below = not os.path.isabs(path) and ".." not in path.split("/")
    if kind not in KINDS.values() or not is_below or bool(path) == (kind == "tag"):
        raise ValueError(f"expected a kind and a path below the directory, got {kind!r} {path!r}")
    if not all(isinstance(tag, str) for tag in tags):
        raise TypeError("tags are texts")
    return IndexEntry(kind, path, list(tags))


def _shipped_directory() -> str:
    import importlib.util

    # This finds the package without importing it.
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MachineError("lm_eval is not installed, so its task names are not known")
    return os.path.join(next(iter(spec.submodule_search_locations)), "tasks")


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("lm_eval")


def _is_installed(root: str) -> bool:
    return any(f"/{name}/" in root for name in _INSTALLED)


def _files(root: str) -> Iterator[str]:
    """Yield the paths of all files below a directory; raises InputError if there are too many."""
    seen = 0
    for directory, folders, names in os.walk(root):
        folders.sort()
        seen += len(folders) + len(names)
        if seen > _MOST_FILES:
            text = f"{root}: more than {_MOST_FILES} files lie below it: name the tasks' directory"
            raise InputError(text, column="include_path")
        yield from (os.path.join(directory, name) for name in sorted(names))


def _signature(root: str) -> list[Any]:
    """Return the path, size and modification time of every YAML file below a directory."""
    files = []
    for path in _files(root):
        name = os.path.basename(path)
        # A file that another one includes may lack the suffix.
        if (is_file(name) or "." not in name) and os.path.exists(path):
            status = os.stat(path)
            files.append([path, status.st_size, status.st_mtime_ns])
    return files


def _scan(root: str) -> TaskIndex:
    """Return what lm-eval's TaskManager finds in a directory, and why it passes over a file."""
    entries: dict[str, IndexEntry] = {}
    passed_over: dict[str, str] = {}
    paths = [path for path in _files(root) if path.endswith(".yaml")]
    # lm-eval takes them in this order; the first of one name counts.
    for path in sorted(paths):
        if not _IGNORED.isdisjoint(path.split("/")):
            continue
        relative = os.path.relpath(path, root)
        try:
            config = task_yaml.read_config(path)
            if not any(key in config for key in ("task", "group", "class")):
                continue
            name, entry = _define(config, relative)
        except TaskYamlError as error:
            passed_over[relative] = str(error)
            continue
        if name in entries:
            passed_over[relative] = f"{entries[name].path or 'a tag'} has the name {name} already"
            continue
        entries[name] = entry
        for tag in entry.tags if entry.kind != "group" else ():
            entries.setdefault(tag, IndexEntry("tag", "", [])).tags.append(name)
    task_yaml.forget()
    entries = {name: each._replace(tags=sorted({*each.tags})) for name, each in entries.items()}
    return TaskIndex(root, entries, passed_over)


def _define(config: Mapping[str, Any], path: str) -> tuple[str, IndexEntry]:
    """Return the name that a configuration defines, and its entry; raises TaskYamlError."""
    kind = task_yaml.kind_of(config)
    return task_yaml.defined_name(config), IndexEntry(kind, path, task_yaml.tags_of(config))
