"""Manifest rows from results of other tools: their values as the text of manifest cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from oellm.manifest.cells import read_cell
from oellm.manifest.model_spec import ModelSpec
from oellm.manifest.rows import Row
from oellm.metrics.records import is_finite
from oellm.metrics.scored_rows import MetricScore


def make_row(cells: Mapping[str, str]) -> Row:
    """Return a row of the cells that are not empty.

    Raises ValueError, with the column, if a cell is not valid or the model or task is missing.
    """
    for name, text in cells.items():
        _require_value(name, text)
    for name in ("model_path", "task_path"):
        if not cells[name].strip():
            raise ValueError(f"{name}: the result does not say which")
    return Row({name: text for name, text in cells.items() if text})


def format_model_path(path: str, arguments: Mapping[str, Any]) -> str:
    """Return the cell of a model and its arguments; raises ValueError if that is impossible."""
    if "," in path:
        raise ValueError(f"model_path: a model's path cannot have a comma, got {path!r}")
    if not path.strip():
        return ""
    pieces = [path, *(f"{name}={_format_value(value)}" for name, value in arguments.items())]
    return str(ModelSpec.parse(",".join(pieces)))


def format_arguments(values: Mapping[str, Any]) -> str:
    """Return arguments as `key=value,key=value`, or as JSON if a value needs it."""
    if not all(_is_plain(value) for value in values.values()):
        return json.dumps(values)
    return ",".join(f"{name}={_format_value(value)}" for name, value in values.items())


def format_limit(value: Any) -> str:
    """Return a number of documents or a fraction; raises ValueError for anything else."""
    if value is None:
        return ""
    if not is_finite(value):
        raise ValueError(f"limit: expected a number, got {value!r}")
    return str(int(value) if value == int(value) else value)


def format_shared_shots(scores: list[MetricScore]) -> str:
    """Return the number of shots that all scores have, empty if they differ."""
    different = {score.n_shot for score in scores}
    shots = different.pop() if len(different) == 1 else None
    return "" if shots is None else str(shots)


def _require_value(name: str, text: str) -> None:
    try:
        read_cell(name, text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "," not in value and value == value.strip()
    return isinstance(value, (bool, int, float))


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
