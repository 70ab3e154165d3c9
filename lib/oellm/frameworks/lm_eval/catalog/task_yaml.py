"""The YAML files of lm-eval's tasks, read without running or importing anything that they name.

lm-eval's own reader is private, follows named pipes and devices, and does not say which file of a
chain of includes is at fault. tests/frameworks/test_task_yaml.py compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from oellm.core.display import format_size
from oellm.core.regular_files import open_regular, read_regular
from oellm.errors import MachineError

# The longest file that lm-eval has is a hundredth of this.
_LARGEST = 2**22
# How many files a file may include, directly and through others.
_MOST_INCLUDES = 200


class FunctionName(NamedTuple):
    """The value of a key with the tag `!function`.

    Attributes:
        name: As it stands in the file: module and function, as `utils.process_docs`.
        directory: The directory of that file, where lm-eval looks for the module first.
    """

    name: str
    directory: str

    @property
    def module_file(self) -> str:
        """The file of the module, if it lies beside the YAML file."""
        return os.path.join(self.directory, *self.name.split(".")[:-1]) + ".py"


class TaskYamlError(ValueError):
    """A file defines no task, and why."""


class _FileState(NamedTuple):
    """What tells a file from what it was before."""

    path: str
    inode: int
    size: int
    mtime_ns: int


# What each file defined when it was read, without its includes.
_parsed: dict[str, tuple[_FileState, dict[str, Any]]] = {}


def read_config(path: str) -> dict[str, Any]:
    """Return the configuration in a YAML file, merged with those that it includes.

    Values with the tag `!function` are FunctionNames. The parts belong to a cache: change none.
    Raises TaskYamlError, with the file that is at fault.
    """
    return _merge(os.path.realpath(os.path.expanduser(path)), seen=set())


def read_files(path: str) -> set[str]:
    """Return a file and those that it includes; raises TaskYamlError."""
    found: set[str] = set()
    _merge(os.path.realpath(os.path.expanduser(path)), seen=found)
    return found


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values within a value that are no maps or lists, each with the nearest key.

    A map or list that appears several times, by YAML's anchors, is looked into once.
    """
    waiting = [(key, value)]
    seen: set[int] = set()
    while waiting:
        key, value = waiting.pop()
        if not isinstance(value, (dict, list)):
            yield key, value
        elif id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else ((key, part) for part in value)
            waiting += [(str(name), part) for name, part in parts][::-1]


def mentions(path: str, text: str) -> bool:
    """Return whether a file has a text, or its name begins with it."""
    if os.path.basename(path).startswith(text):
        return True
    try:
        return text.encode("utf-8", "surrogateescape") in read_regular(path, _LARGEST)
    except OSError:
        return False


def find_place(path: str, text: str) -> str:
    """Return `FILE:LINE` of the first line that has a text, in a file or in those it includes.

    If none has it, return the file.
    """
    try:
        files = sorted(read_files(path), key=lambda each: each != path)
    except TaskYamlError:
        files = [path]
    places = (f"{file}:{line}" for file in files if (line := _find_line(file, text)))
    return next(places, path)


def _find_line(path: str, text: str) -> int:
    """Return the first line of a file that has a text, from 1; 0 if none has it."""
    try:
        lines = read_regular(path, _LARGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return 0
    return next((number for number, line in enumerate(lines, 1) if text in line), 0)


def forget() -> None:
    """Forget the files that were read."""
    _parsed.clear()


def kind_of(config: Mapping[str, Any]) -> str:
    """Return what a configuration defines: class, group or task.

    Raises TaskYamlError if it defines none of them, as a file that others include.
    """
    # In lm-eval's order: a class may have a task's name as well.
    for kind in ("class", "group", "task"):
        if kind in config:
            return kind
    raise TaskYamlError("it has no key `task`, `group` or `class`")


def defined_name(config: Mapping[str, Any]) -> str:
    """Return the name of the task or group that a configuration defines; raises TaskYamlError."""
    key = "group" if kind_of(config) == "group" else "task"
    name = config.get(key)
    if not isinstance(name, str) or not name:
        raise TaskYamlError(f"`{key}` is {name!r}, and a name is a text")
    return name


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """Return the tags of a task or group."""
    tags = config.get("tag")
    return [tag for tag in (tags if isinstance(tags, list) else [tags]) if isinstance(tag, str)]


def _merge(path: str, seen: set[str]) -> dict[str, Any]:
    # lm-eval refuses the second as well.
    if path in seen:
        raise TaskYamlError(f"{path} is included twice, or includes itself")
    if len(seen) > _MOST_INCLUDES:
        raise TaskYamlError(f"more than {_MOST_INCLUDES} files include each other, up to {path}")
    seen.add(path)
    config = dict(_parse(path))
    included = config.pop("include", None)
    if included is None:
        return config
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        if not isinstance(name, str):
            raise TaskYamlError(f"{path} includes {name!r}, and expected is a file")
        target = os.path.realpath(os.path.join(os.path.dirname(path), name))
        if not os.path.exists(target):
            line = _find_line(path, name)
            place = f"{path}:{line}" if line else path
            raise TaskYamlError(f"{place} includes {name}, which is not there")
        part = _merge(target, seen)
        # lm-eval means this key for the included file alone.
        part.pop("task_list", None)
        merged |= part
    return merged | config


def _parse(path: str) -> dict[str, Any]:
    """Return the configuration in one file; raises TaskYamlError."""
    try:
        with open_regular(path) as stream:
            status = os.fstat(stream.fileno())
            state = _FileState(
                path, inode=status.st_ino, size=status.st_size, mtime_ns=status.st_mtime_ns
            )
            known = _parsed.get(path)
            if known and known[0] == state:
                return known[1]
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise TaskYamlError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise TaskYamlError(f"{path} is longer than {format_size(_LARGEST)}")
    yaml = _yaml()
    try:
        config = yaml.load(content, Loader=_loader(os.path.dirname(path)))
    # Besides its own errors, the parser raises any of those of the values that it makes.
    except Exception as error:
        raise TaskYamlError(f"{path} is not YAML that lm-eval reads: {_place(error)}") from None
    if not isinstance(config, dict):
        raise TaskYamlError(f"{path} has no keys: expected `task: NAME` and others")
    _parsed[path] = state, config
    return config


def _place(error: Exception) -> str:
    """Return what a parser says, in one line, with the line of the file."""
    mark = getattr(error, "problem_mark", None)
    said = str(getattr(error, "problem", None) or error).partition("\n")[0]
    return f"line {mark.line + 1}: {said}" if mark is not None else said


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MachineError("lm_eval is not installed, so its task names are not known") from None
    return yaml


@cache
def _loader(directory: str) -> Any:
    """Return a loader for files of a directory; like lm-eval's, but imports no function."""
    yaml = _yaml()
    base: Any = yaml.CSafeLoader if getattr(yaml, "__with_libyaml__", False) else yaml.FullLoader

    class Loader(base):  # type: ignore[misc]
        pass

    def function_name(loader: Any, node: Any) -> FunctionName:
        return FunctionName(str(loader.construct_scalar(node)), directory)

    yaml.add_constructor("!function", function_name, Loader=Loader)
    return Loader
