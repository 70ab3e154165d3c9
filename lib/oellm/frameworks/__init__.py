"""Evaluation frameworks, one adapter package each, by the name that eval_suite gives them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from oellm.errors import UsageError, nearest
from oellm.frameworks.interface import Evaluator, Model, Tasks
from oellm.manifest.rows import Row

_ADAPTERS = {"lm_eval": "oellm.frameworks.lm_eval"}


def names() -> list[str]:
    """Return the names of the supported frameworks."""
    return sorted(_ADAPTERS)


def require(row: Row) -> str:
    """Return the row's framework; raises InputError where it is not supported."""
    name: str = row.value("eval_suite")
    if name not in _ADAPTERS:
        known = ", ".join(names())
        raise row.error("eval_suite", f"expected one of {known}, got {name!r}")
    return name


def model(name: str, report: Callable[[str], None]) -> Model:
    """Import a framework and return its model, with nothing loaded; `report` gets messages."""
    made: Model = _module(name, "model").Model(report)
    return made


def evaluator(name: str) -> Evaluator:
    """Return what evaluates rows with a framework."""
    made: Evaluator = _module(name, "evaluator").Evaluator()
    return made


def tasks(name: str) -> Tasks:
    """Return the tasks of a framework."""
    made: Tasks = _module(name, "tasks").Tasks()
    return made


def _module(name: str, part: str) -> Any:
    if name not in _ADAPTERS:
        raise UsageError(f"unknown framework {name!r}{nearest(name, _ADAPTERS)}")
    return importlib.import_module(f"{_ADAPTERS[name]}.{part}")
