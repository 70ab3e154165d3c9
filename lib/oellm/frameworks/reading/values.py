"""Values in results of other tools, whose types nobody has checked."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from typing import Any, TypeGuard

from oellm.core.display import shorten_end

Object = dict[str, Any]

# What a float has exactly.
_MOST = 2**53
# Characters of a value that a message shows.
_LONGEST = 41


def is_count(value: Any) -> TypeGuard[int]:
    """Return whether a value is a number of things, small enough to reckon with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def spelled(value: Any) -> str:
    """Return a value that is no finite number as a remark shows it: short texts, or a type."""
    if value is None:
        return "null"
    if isinstance(value, (str, float)):
        text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
        return shorten_end(text, _LONGEST)
    return f"of type {type(value).__name__}"


def object_at(parent: Object, key: str) -> Object:
    """Return the object under a key, an empty one where it is absent or null.

    Raises ValueError where something else is there.
    """
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected an object, got {type(value).__name__}")
    return value


def objects_at(parent: Object, key: str) -> dict[str, Object]:
    """Return the objects by name under a key; raises ValueError where a value is no object."""
    found = object_at(parent, key)
    return {name: object_at(found, name) for name in found}


def text_at(parent: Object, key: str) -> str:
    """Return the text under a key, empty where it is absent or null; else raises ValueError."""
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected a text, got {type(value).__name__}")
    return value


# results_2024-05-01T12-30-45.123456.json: some tools put the end there, in local time.
_IN_NAME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d)[-:](\d\d)[-:](\d\d)(?:\.\d+)?\.json\Z")


def at_seconds(seconds: float) -> str:
    """Return the time that is so many seconds after 1970, empty where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return ""
    return moment.isoformat(timespec="seconds")


def of_local(text: str) -> str:
    """Return a time without a zone, such as `2024-05-01 12:30`, as one of this machine's zone."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return ""


def find_finish_time(path: str) -> str:
    """Return the time in a file's name, else when the file was last modified."""
    if match := _IN_NAME.search(path):
        return of_local(":".join(match.groups()))
    try:
        return at_seconds(os.stat(path).st_mtime)
    except (OSError, ValueError):
        return ""
