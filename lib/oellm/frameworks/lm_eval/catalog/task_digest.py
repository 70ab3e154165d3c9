"""Digests of tasks: over everything of their own that their scores depend on.

That is the merged configuration of a task, the Python code that it names, and its local data; for a
group or a tag, that of all its tasks. Comments, the order of keys and the place of the files do not
count, and neither do other tasks beside it. Nothing is imported or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oellm.frameworks.lm_eval.catalog import local_files, task_tree, task_yaml
from oellm.frameworks.lm_eval.catalog.local_files import UnknownContentError
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndex
from oellm.frameworks.lm_eval.catalog.task_yaml import FunctionName, TaskYamlError

_DIGITS = 16
# Names with which load_dataset reads files that the configuration names.
_FORMATS = ("arrow", "csv", "json", "parquet", "text", "xml", "webdataset", "imagefolder")
# Data files that are named one by one; of more, their directories are.
_FEW_FILES = 20
_TASKS_PACKAGE = "lm_eval.tasks."


def compute_digest(task: str, indices: Sequence[TaskIndex]) -> str:
    """Return 16 hex digits for a task, group, tag or YAML file; the first index of a name counts.

    Returns an empty text if the task depends on something that cannot be told, such as a file that
    is not there or must not be read.
    """
    content = hashlib.sha256()
    try:
        for name, config, directory in sorted(
            task_tree.definitions(task, indices), key=lambda each: each[0]
        ):
            content.update(f"{name}\n{_value_digest(config)}\n".encode())
            for named in _named_contents(config, directory):
                content.update(f"{named}\n".encode("utf-8", "surrogateescape"))
    except (TaskYamlError, UnknownContentError, RecursionError):
        return ""
    return content.hexdigest()[:_DIGITS]


def find_local_paths(task: str, indices: Sequence[TaskIndex]) -> set[str]:
    """Return the files that define a task and all behind it, and the local data that these name.

    Of many data files it is the directories.
    """
    found: set[str] = set()
    with contextlib.suppress(TaskYamlError, UnknownContentError, RecursionError):
        found.update(task_tree.definition_files(task, indices))
        for _, config, _ in task_tree.definitions(task, indices):
            for part in _task_configs(config, set()):
                found.update(_data_paths(part))
    return found


def find_version(task: str, indices: Sequence[TaskIndex]) -> str:
    """Return the version that a task gives itself, or else the one that all its tasks have.

    Returns an empty text if there is none.
    """
    try:
        definitions = list(task_tree.definitions(task, indices))
    except TaskYamlError:
        return ""
    own = _version(definitions[0].config)
    versions = {_version(config) for _, config, _ in definitions[1:] if "group" not in config}
    return own or (versions.pop() if len(versions) == 1 else "")


def _version(config: Mapping[str, Any]) -> str:
    metadata = config.get("metadata")
    version = metadata.get("version") if isinstance(metadata, Mapping) else None
    return "" if version is None else str(version)


def _value_digest(value: Any, known: dict[int, str] | None = None) -> str:
    """Return a digest of a value from YAML.

    A value that appears several times, by YAML's anchors, is looked at once.
    """
    known = {} if known is None else known
    if isinstance(value, FunctionName):
        text = f"!function {value.name}"
    elif isinstance(value, (dict, list)):
        if id(value) in known:
            return known[id(value)]
        # A value that contains itself; only anchors can do that.
        known[id(value)] = "circle"
        if isinstance(value, dict):
            items = sorted((repr(key), _value_digest(part, known)) for key, part in value.items())
            text = f"map {items}"
        else:
            text = f"list {[_value_digest(part, known) for part in value]}"
    else:
        text = f"{type(value).__name__} {sorted(value) if isinstance(value, set) else value!r}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if isinstance(value, (dict, list)):
        known[id(value)] = digest
    return digest


def _named_contents(config: Mapping[str, Any], directory: str) -> Iterator[str]:
    """Yield the names and digests of the files that a configuration names."""
    directories = [directory]
    for _, function in task_yaml.leaves(config):
        if isinstance(function, FunctionName) and (path := _module_file(function)):
            directories.append(os.path.dirname(path))
            files = local_files.code_files(path, _packages())
            yield from (f"code {name} {digest}" for name, digest in sorted(files.items()))
    for part in _task_configs(config, set()):
        yield from _data_digests(part, list(dict.fromkeys(filter(None, directories))))


def _task_configs(value: Any, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration and those of the tasks that are defined within it."""
    if isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        yield value
        for member in task_tree.member_list(value.get("task")):
            yield from _task_configs(member, seen)


def _module_file(function: FunctionName) -> str:
    """Return the file of a function's module, if it is the task's own; else an empty text."""
    if local_files.is_regular(function.module_file):
        return function.module_file
    if function.name.startswith(_TASKS_PACKAGE) and (packages := _packages()):
        path = os.path.join(packages, *function.name.split(".")[:-1]) + ".py"
        return path if local_files.is_regular(path) else ""
    return ""


def _packages() -> str:
    """Return the directory in which the package lm_eval lies; empty if there is none."""
    spec = importlib.util.find_spec("lm_eval")
    places = spec.submodule_search_locations if spec is not None else None
    return os.path.dirname(next(iter(places))) if places else ""


def _data_digests(config: Mapping[str, Any], directories: list[str]) -> Iterator[str]:
    """Yield the names and digests of a task's local data."""
    path = config.get("dataset_path")
    options = config.get("dataset_kwargs")
    if isinstance(path, str) and path not in _FORMATS:
        if os.path.isdir(path):
            yield f"data {path} {local_files.directory_digest(path)}"
        elif local_files.is_regular(path):
            yield f"data {path} {local_files.file_digest(path)}"
    if not isinstance(options, Mapping):
        return
    base = options.get("data_dir")
    base = base if isinstance(base, str) and os.path.isdir(base) else ""
    for text in _texts(options.get("data_files")):
        yield from _matches(os.path.join(base, text), path in _FORMATS)
    if base:
        yield f"data {base} {local_files.directory_digest(base)}"
    for text in _texts([part for key, part in options.items() if key != "data_files"]):
        for place in ("", *directories):
            file = os.path.join(place, text)
            if local_files.is_regular(file):
                yield f"data {text} {local_files.file_digest(file)}"
                break


def _data_paths(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of a task's local data."""
    options = config.get("dataset_kwargs")
    options = options if isinstance(options, Mapping) else {}
    base = options.get("data_dir")
    for path in (config.get("dataset_path"), base):
        if isinstance(path, str) and os.path.exists(path) and path not in _FORMATS:
            yield path
    for text in _texts(options.get("data_files")):
        if "://" not in text:
            pattern = os.path.join(base if isinstance(base, str) else "", text)
            files = local_files.matching_files(pattern)
            many = len(files) > _FEW_FILES
            yield from {os.path.dirname(file) for file in files} if many else files


def _texts(value: Any) -> list[str]:
    return [text for _, text in task_yaml.leaves(value) if isinstance(text, str)]


def _matches(pattern: str, is_needed: bool) -> Iterator[str]:
    """Yield the names and digests of the local files that a pattern of load_dataset means.

    Raises UnknownContentError if there is none, and nothing else can be meant.
    """
    if "://" in pattern:
        return
    files = local_files.matching_files(pattern)
    if is_needed and not files:
        raise UnknownContentError(f"{pattern}: no such file")
    for file in files:
        yield f"data {file} {local_files.file_digest(file, len(files))}"
