"""What is asked for on a terminal if no option says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from oellm import frameworks
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

_OTHER_MODEL = "another one: its name on the hub, or its path"
_OTHER_TASKS = "other tasks, of all frameworks"


def ask_model(hf_home: str, binds: Iterable[Bind]) -> str:
    """Return a model: one of the cache, of a bound directory, or any other."""
    menus.require_terminal("--model")
    known = list_known_models(hf_home, [bind.source for bind in binds])
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
    others = menus.choose_several("Which other tasks?", frameworks.list_all_tasks(log))
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
