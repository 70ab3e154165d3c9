"""Whether a task exists, and what to tell the user if it does not."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

from oellm.errors import InputError, nearest
from oellm.frameworks.lm_eval.catalog import task_yaml
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndex, TaskIndices, is_file
from oellm.frameworks.lm_eval.catalog.task_yaml import FunctionName, TaskYamlError

# Files that one message names.
_SHOWN = 3


def require_task(indices: TaskIndices, task: str, include_path: str) -> None:
    """Raise InputError, with the column, if the task, file or directory does not exist.

    Also raises it for a task of the user's own that names a function in a file that is not there.
    """
    require_files(task, include_path)
    if is_file(task):
        return
    own = indices.directory(include_path)
    if task in own.entries:
        _require_functions(own, task)
    else:
        require_name(task, [own, indices.shipped()])


def find_unknown(indices: TaskIndices, task: str, include_path: str) -> str:
    """Return that there is no such task, with the nearest name; else an empty text.

    Also empty if the index of lm-eval's own tasks is needed and would have to be made, or if the
    directory or the file is not here. Raises InputError for a task of the user's own that names a
    function in a file that is not there.
    """
    if is_file(task) or (include_path and not os.path.isdir(include_path)):
        return ""
    own = indices.directory(include_path)
    if task in own.entries:
        _require_functions(own, task)
        return ""
    shipped = indices.known_shipped()
    return "" if shipped is None else _describe_unknown(task, [own, shipped])


def require_files(task: str, include_path: str) -> None:
    """Raise InputError, with the column, if the directory or a task's YAML file does not exist."""
    if include_path and not os.path.isdir(include_path):
        raise InputError(_describe_missing(include_path), column="include_path")
    if is_file(task) and not os.path.isfile(task):
        raise InputError(f"{task}: no such file", column="task_path")


def require_name(task: str, indices: Sequence[TaskIndex]) -> None:
    """Raise InputError, with the column, if no index has a name; that of the directory is first."""
    if text := _describe_unknown(task, indices):
        raise InputError(text, column="task_path")


def _describe_unknown(task: str, indices: Sequence[TaskIndex]) -> str:
    if any(task in index.entries for index in indices):
        return ""
    hint = nearest(task, [name for index in reversed(indices) for name in index.entries])
    text = f"lm-eval has no task, group or tag {task!r}{hint}"
    if not hint and not indices[0].root:
        return f"{text}; your own tasks need include_path"
    return text + _describe_passed_over(task, indices[0], is_alike=bool(hint))


def _describe_missing(include_path: str) -> str:
    parts = [part.strip() for part in include_path.split(",")]
    text = f"{include_path}: no such directory"
    if len(parts) > 1 and all(map(os.path.isdir, parts)):
        text += "; expected one directory: make one that has links to the files of all"
    return text


def _describe_passed_over(task: str, own: TaskIndex, is_alike: bool) -> str:
    """Return which files of a directory define nothing, and why; the likeliest one first.

    If a task has a name alike (`is_alike`), only a file that has this name is worth telling.
    """
    text = ""
    named = [path for path in sorted(own.passed_over) if _mentions(own, path, task)]
    others = [] if is_alike else sorted(own.passed_over.keys() - set(named))
    suspects = [*named, *others]
    for path in suspects[:_SHOWN]:
        reason = own.passed_over[path]
        at_fault = "" if reason.startswith("/") else f"{os.path.join(own.root, path)}: "
        text += f"; passed over: {at_fault}{reason}"
    if len(suspects) > _SHOWN:
        text += f"; and {len(suspects) - _SHOWN} more files"
    return text


def _mentions(own: TaskIndex, path: str, task: str) -> bool:
    return task_yaml.mentions(os.path.join(own.root, path), task)


def _require_functions(own: TaskIndex, task: str) -> None:
    """Raise InputError if a task names a function in a file that is not there."""
    if own.entries[task].kind == "tag":
        return
    try:
        config = own.config(task)
    # The files changed after the scan; lm-eval says what it thinks of them.
    except TaskYamlError:
        return
    for key, function in task_yaml.leaves(config):
        if not isinstance(function, FunctionName):
            continue
        module = function.name.rpartition(".")[0]
        if not module or os.path.exists(function.module_file) or _is_importable(module):
            continue
        path = os.path.join(own.root, own.entries[task].path)
        text = (
            f"{path}: {key}: !function {function.name}: there is no {function.module_file}, "
            f"nor a module {module!r}"
        )
        raise InputError(text, column="task_path")


def _is_importable(module: str) -> bool:
    """Return whether there is a package that may have a module; imports nothing."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
