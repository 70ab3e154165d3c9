"""Metrics under plain names: `pass@1` is a number, and `pass@1_stderr` its standard error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oellm.core.json_codec import is_finite
from oellm.frameworks.reading.values import describe_value

_STDERR = "_stderr"


class PlainMetric(NamedTuple):
    """A metric of a task; `stderr` is None if the result does not tell it."""

    name: str
    value: float
    stderr: float | None


def read_metrics(values: Mapping[str, Any]) -> Iterator[PlainMetric]:
    """Yield the metrics of a task that are finite numbers."""
    for name, value in values.items():
        if is_finite(value) and not name.endswith(_STDERR):
            stderr = values.get(name + _STDERR)
            yield PlainMetric(name, value, stderr if is_finite(stderr) else None)


def describe_left_out(task: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a remark for each metric of a task that read_metrics leaves out."""
    for name, value in values.items():
        if not is_finite(value) and not name.endswith(_STDERR):
            yield f"{name} of {task} is {describe_value(value)}"
