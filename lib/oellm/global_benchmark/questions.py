"""What is asked for on a terminal if no option says it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from oellm.core import menus
from oellm.core.log import Log
from oellm.global_benchmark.benchmark_tasks import (
    Sampling,
    find_obstacle,
    image_definitions,
    known_tasks,
    parse_samplings,
)
from oellm.global_benchmark.config_file import Bind
from oellm.models.known_models import list_known_models
from oellm.wrappers.task_names import ask_tasks as ask_other_tasks
from oellm.wrappers.task_names import find_unknown, list_tasks, split_task

_OTHER_MODEL = "another one: its name on the hub, or its path"
_OTHER_TASKS = "other tasks, of all frameworks"


def ask_model(hf_home: str, binds: Iterable[Bind]) -> str:
    """Return a model: one of the cache, of a bound directory, or any other."""
    menus.require_terminal("--model")
    known = list_known_models(hf_home, [bind.source for bind in binds])
    if known:
        # The last one of many would be out of sight.
        chosen = menus.choose("Which model?", [_OTHER_MODEL, *known], default=known[0])
        if chosen != _OTHER_MODEL:
            return chosen
    return menus.ask("Name or path of the model:", check=lambda text: _require(text.strip()))


def ask_tasks(log: Log) -> list[str]:
    """Return tasks: of Global Benchmarks, if they can be run, and if wanted of all frameworks."""
    menus.require_terminal("--tasks")
    names = [name for name, task in known_tasks().items() if not find_obstacle(task)]
    chosen = menus.choose_several("Which tasks?", [_OTHER_TASKS, *names])
    if _OTHER_TASKS not in chosen:
        return chosen
    known = list_tasks(log)
    others = ask_other_tasks(
        "Other tasks, separated by commas:",
        known,
        check=functools.partial(find_unknown, known=frozenset(known)),
    )
    named = [":".join(split_task(name)) for name in others]
    return [*(name for name in chosen if name != _OTHER_TASKS), *named]


def ask_samplings(suite: str, tasks: Sequence[str]) -> list[Sampling]:
    """Return the pairs of temperature and n_samples for the tasks of a framework."""
    menus.require_terminal("--samples")
    what = f"How answers are drawn, such as (0.2, 20), (0.8, 100): {', '.join(tasks)} ({suite})"
    question = "Pairs of (temperature, n_samples):"
    return parse_samplings(menus.ask(question, check=_find_fault, meaning=what))


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
