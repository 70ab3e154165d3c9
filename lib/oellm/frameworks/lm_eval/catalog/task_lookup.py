"""Whether a task exists, and what to tell the user if it does not."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

from oellm.errors import InputError, nearest
from oellm.frameworks.lm_eval.catalog import task_yaml
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndex, TaskIndices, is_file
from oellm.frameworks.lm_eval.catalog.task_tree import find_home
from oellm.frameworks.lm_eval.catalog.task_yaml import FunctionName, TaskYamlError

# Files that one message names.
_SHOWN = 3


def require_task(indices: TaskIndices, task: str, include_path: str) -> None:
    """Raise InputError, with the column, if the task, file or directory does not exist.

    Also raises it for a task of the user's own that names a function in a file that is not there.
    """
    require_files(indices, task, include_path)
    if is_file(task):
        return
    own = indices.own(include_path)
    if (home := find_home(task, own)) is not None:
        _require_functions(home, task)
    else:
        require_name(task, [*own, indices.shipped()], own)


def find_unknown(indices: TaskIndices, task: str, include_path: str) -> str:
    """Return that there is no such task, with the nearest name; else an empty text.

    Also empty if the index of lm-eval's own tasks is needed and would have to be made, or if a
    directory or the file is not here. Raises InputError for a task of the user's own that names a
    function in a file that is not there, or that two sources define, and UncachedSourceError.
    """
    directories = indices.directories(include_path)
    if is_file(task) or not all(map(os.path.isdir, directories)):
        return ""
    own = [*map(indices.directory, directories)]
    if (home := find_home(task, own)) is not None:
        _require_functions(home, task)
        return ""
    shipped = indices.known_shipped()
    return "" if shipped is None else _describe_unknown(task, [*own, shipped], own)


def require_files(indices: TaskIndices, task: str, include_path: str) -> None:
    """Raise InputError, with the column, if a directory or a task's YAML file does not exist."""
    for directory in indices.directories(include_path):
        if not os.path.isdir(directory):
            raise InputError(_describe_missing(directory), column="include_path")
    if is_file(task) and not os.path.isfile(task):
        raise InputError(f"{task}: no such file", column="task_path")


def require_name(task: str, indices: Sequence[TaskIndex], own: Sequence[TaskIndex]) -> None:
    """Raise InputError, with the column, if no index has a name; `own` are those of the sources."""
    if text := _describe_unknown(task, indices, own):
        raise InputError(text, column="task_path")


def _describe_unknown(task: str, indices: Sequence[TaskIndex], own: Sequence[TaskIndex]) -> str:
    if any(task in index.entries for index in indices):
        return ""
    hint = nearest(task, [name for index in reversed(indices) for name in index.entries])
    text = f"lm-eval has no task, group or tag {task!r}{hint}"
    if not hint and not own:
        return f"{text}; your own tasks need include_path"
    return text + _describe_passed_over(task, own, is_alike=bool(hint))


def _describe_missing(directory: str) -> str:
    text = f"{directory}: no such directory"
    parts = [part.strip() for part in directory.split(",")]
    if len(parts) > 1 and all(map(os.path.isdir, parts)):
        text += "; several are separated by `:`"
    return text


def _describe_passed_over(task: str, own: Sequence[TaskIndex], is_alike: bool) -> str:
    """Return which files of directories define nothing, and why; the likeliest one first.

    If a task has a name alike (`is_alike`), only a file that has this name is worth telling.
    """
    text = ""
    reasons = {
        os.path.join(index.root, path): reason
        for index in own
        for path, reason in index.passed_over.items()
    }
    named = [path for path in sorted(reasons) if task_yaml.mentions(path, task)]
    others = [] if is_alike else sorted(reasons.keys() - set(named))
    suspects = [*named, *others]
    for path in suspects[:_SHOWN]:
        at_fault = "" if reasons[path].startswith("/") else f"{path}: "
        text += f"; passed over: {at_fault}{reasons[path]}"
    if len(suspects) > _SHOWN:
        text += f"; and {len(suspects) - _SHOWN} more files"
    return text


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
        place = task_yaml.find_place(path, f"!function {function.name}")
        text = (
            f"{place}: {key}: !function {function.name}: there is no {function.module_file}, "
            f"nor a module {module!r}"
        )
        raise InputError(text, column="task_path")


def _is_importable(module: str) -> bool:
    """Return whether there is a package that may have a module; imports nothing."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
