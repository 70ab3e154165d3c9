"""Results of lm-eval 0.3 and older, in the form that lm-eval has written since 0.4.

There, metrics have no filter (`acc`, and `acc_stderr` beside it). The shots are in `config`: one
number for all tasks, or a list in the order of the tasks, as some forks write it.
"""

from __future__ import annotations

import re
from typing import Any

from oellm.frameworks.reading.values import Object, is_count

_STDERR = "_stderr"


def is_old(document: Object, results: dict[str, Object]) -> bool:
    """Return whether a document is a result of lm-eval 0.3 or older."""
    has_filters = any("," in key for values in results.values() for key in values)
    return "versions" in document and "configs" not in document and not has_filters


def upgrade(document: Object, results: dict[str, Object]) -> Object:
    """Return the result in the form of lm-eval 0.4."""
    config = document.get("config")
    shots = _shots(config.get("num_fewshot") if isinstance(config, dict) else None)
    of_tasks = shots * len(results) if len(shots) == 1 else shots
    if len(of_tasks) != len(results):
        of_tasks = [None] * len(results)
    return {
        **document,
        "results": {task: _with_filter(values) for task, values in results.items()},
        "n-shot": dict(zip(results, of_tasks, strict=True)),
    }


def _with_filter(values: Object) -> Object:
    return {f"{name},none": value for name, value in values.items()}


def _shots(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", value.replace(" ", "")):
        return [int(part) for part in value.split(",")]
    return [value if is_count(value) else None]
