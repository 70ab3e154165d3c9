"""What is asked for on a terminal if no option says it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from oellm import frameworks
from oellm.core import menus
from oellm.core.log import Log
from oellm.errors import MachineError
from oellm.global_benchmark.benchmark_tasks import (
    Sampling,
    find_obstacle,
    image_definitions,
    known_tasks,
    parse_samplings,
)
from oellm.global_benchmark.config_file import Bind
from oellm.hub import cache

_OTHER_MODEL = "another one: its name on the hub, or its path"
_OTHER_TASKS = "other tasks, of all frameworks"
# How deep below a bound directory models are looked for, and among how many directories.
_DEPTH = 3
_MOST_DIRECTORIES = 2000


def ask_model(hf_home: str, binds: Iterable[Bind]) -> str:
    """Return a model: one of the cache, of a bound directory, or any other."""
    menus.require_terminal("--model")
    known = [*cache.list_models(os.path.join(hf_home, "hub")), *_bound_models(binds)]
    chosen = menus.choose("Which model?", [*known, _OTHER_MODEL]) if known else _OTHER_MODEL
    if chosen != _OTHER_MODEL:
        return chosen
    return menus.ask("Name or path of the model:", check=lambda text: _require(text.strip()))


def ask_tasks(log: Log) -> list[str]:
    """Return tasks: of Global Benchmarks, if they can be run, and if wanted of all frameworks."""
    menus.require_terminal("--tasks")
    names = [name for name, task in known_tasks().items() if not find_obstacle(task)]
    chosen = menus.choose_several("Which tasks?", [*names, _OTHER_TASKS])
    if _OTHER_TASKS not in chosen:
        return chosen
    others = menus.choose_several("Which other tasks?", list(_all_names(log)))
    return [*(name for name in chosen if name != _OTHER_TASKS), *others]


def ask_samplings(suite: str, tasks: Sequence[str]) -> list[Sampling]:
    """Return the pairs of temperature and n_samples for the tasks of a framework."""
    menus.require_terminal("--samples")
    question = f"{', '.join(tasks)} ({suite}): pairs like (temperature, n_samples):"
    return parse_samplings(menus.ask(question, check=_find_fault))


def ask_definitions(known: Sequence[str]) -> list[str]:
    """Return definitions of images: of Global Benchmarks, or others that there are."""
    menus.require_terminal("--definitions")
    return menus.choose_several("Which images?", [*image_definitions(), *known])


def _require(text: str) -> str:
    return "" if text else "a name or a path is needed"


def _find_fault(text: str) -> str:
    try:
        parse_samplings(text)
    except ValueError as error:
        return str(error)
    return ""


def _all_names(log: Log) -> Iterator[str]:
    for suite in frameworks.runnable_names():
        try:
            names = frameworks.list_task_names(suite, log)
        except MachineError as error:
            log(f"{suite}: its tasks are not listed: {error}")
            continue
        yield from (f"{suite}:{name}" for name in names)


def _bound_models(binds: Iterable[Bind]) -> Iterator[str]:
    """Yield the directories below the bound ones that have a model's configuration."""
    for bind in binds:
        waiting = [(Path(bind.source), 0)]
        for directory, depth in waiting:
            if (directory / "config.json").is_file():
                yield str(directory)
            elif depth < _DEPTH and len(waiting) < _MOST_DIRECTORIES:
                waiting += [(each, depth + 1) for each in _directories(directory)]


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        return []
