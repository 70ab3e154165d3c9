"""Manifest rows from results of other tools: their values as the text of manifest cells."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from oellm.core.json_codec import is_finite
from oellm.manifest import foreign_names
from oellm.manifest.cells import read_cell
from oellm.manifest.model_spec import ModelSpec
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import MetricScore

# A directory of a hub's cache in a file's name, in which some tools write `--` for each slash.
_IN_FILE_NAME = re.compile(r"(?:.*--)?(models--.+)--snapshots--([0-9A-Za-z]+)", re.DOTALL)


def make_row(cells: Mapping[str, str]) -> Row:
    """Return a row of the cells that are not empty.

    Raises ValueError, with the column, if a cell is not valid or the task is missing. A missing
    model is no error: the user may name it (reading/detect.py).
    """
    for name, text in cells.items():
        _require_value(name, text)
    if not cells["task_path"].strip():
        raise ValueError("task_path: the result does not say which")
    return Row({name: text for name, text in cells.items() if text})


def read_path(text: str) -> str:
    """Return the path of a model as a file's name has it, with `--` for each slash."""
    if match := _IN_FILE_NAME.fullmatch(text):
        return f"{match[1]}/snapshots/{match[2]}"
    return text.replace("--", "/")


def model_cells(path: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells that name a model with its arguments.

    A directory of a hub's cache is the model of the hub, and the commit its model_revision.
    Arguments with their default (`dtype=auto`) are left out, as most results leave them out.
    Arguments that a model's cell cannot hold go to the column model_args, as JSON; so do all if
    the path is unknown. Raises ValueError for an argument that is a secret.
    """
    path, commit = foreign_names.model_and_commit(path)
    cells = {"model_revision": commit} if commit else {}
    told = {n: v for n, v in arguments.items() if not foreign_names.is_default(n, v)}
    simple = {n: v for n, v in told.items() if path and _fits_cell(n, v)}
    others = {n: v for n, v in told.items() if n not in simple}
    if path:
        cells["model_path"] = str(ModelSpec.of(path, simple))
    if others:
        cells["model_args"] = _format_json(others)
    return cells


def format_arguments(values: Mapping[str, Any]) -> str:
    """Return arguments as `key=value,key=value`, or as JSON if a value needs it."""
    if not all(_fits_cell(name, value) for name, value in values.items()):
        return _format_json(values)
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


def _fits_cell(name: str, value: Any) -> bool:
    """Return whether a model's cell can hold an argument."""
    return bool(name) and name == name.strip() and not set("=,") & set(name) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "," not in value and value == value.strip()
    return isinstance(value, (bool, int, float))


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _format_json(values: Mapping[str, Any]) -> str:
    """Return an object as JSON, which has no NaN or Infinity: they become texts."""
    plain = json.loads(json.dumps(values), parse_constant=str)
    return json.dumps(plain, ensure_ascii=False)
