"""What is given for a manifest and is none, and columns that are nearly those of a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from oellm.core import schema
from oellm.errors import InputError, find_nearest

# How alike a column's name must be to one that means something, from 0 to 1.
_ALIKE = 0.8
# By a key of theirs, the objects that our commands print.
_OBJECTS = {
    "run_dir": "a run object, as oe-render prints it: oe-submit takes it",
    "oellm": "results of oe-run-task: oe-collect takes them",
    "metric": "metric records, as oe-collect prints them: oe-pivot and oe-compare take them",
    "clusters": "a file of clusters: name it by OELLM_CONFIG",
    "eval_base_dir": "settings of a cluster, as oe-detect prints them: --cluster takes them",
}


def require_manifest(first_line: str, source: str) -> None:
    """Raise InputError, with what it is, if a text that begins so is one that commands print."""
    start = first_line.lstrip("\ufeff \t")
    if start.startswith(("{", "[")):
        kind = next((text for key, text in _keys(start) if text), "")
        # Anything else may be the header of a column with a strange name.
        if kind:
            raise InputError(f"expected a manifest in CSV, got {kind}", source, line=1)
    columns = [name.strip() for name in start.split(",")]
    if {"metric", "value"} <= set(columns) and "task_path" not in columns:
        raise InputError(f"expected a manifest, got {_OBJECTS['metric']}", source, line=1)


def _keys(line: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of an object on a line that mark what it is, each with what it is."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # A long or indented object: its first keys must do.
        yield from ((key, text) for key, text in _OBJECTS.items() if f'"{key}"' in line)
        return
    if isinstance(value, dict):
        yield from ((key, text) for key, text in _OBJECTS.items() if key in value)


def find_misspelled_columns(header: Iterable[str]) -> Iterator[str]:
    """Yield a message for each unknown column whose name is nearly that of a known one."""
    known = schema.table("manifest")
    for name in header:
        if name in known:
            continue
        plain = name.strip().lower().replace("-", "_").replace(" ", "_")
        meant = plain if plain in known else find_nearest(plain, known, _ALIKE)
        if meant:
            yield f"unknown column {name!r}, did you mean {meant}? it is passed on"
