"""Reading values of unchecked types from the results of other tools."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from typing import Any, TypeGuard

from oellm.core.display import shorten_end

Object = dict[str, Any]

# Up to this number, a float represents every integer exactly.
_MAX_COUNT = 2**53
# Maximum number of characters of a value in a message.
_MAX_LENGTH = 41


def is_count(value: Any) -> TypeGuard[int]:
    """Return whether a value is a non-negative integer that a float can represent exactly."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT


def describe_value(value: Any) -> str:
    """Describe a value that is no finite number for a remark: a short text, or its type."""
    if value is None:
        return "null"
    if isinstance(value, (str, float)):
        text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
        return shorten_end(text, _MAX_LENGTH)
    return f"of type {type(value).__name__}"


def get_object(parent: Object, key: str) -> Object:
    """Return the object under a key; an empty object if it is absent or null.

    Raises ValueError if the value is of another type.
    """
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected an object, got {type(value).__name__}")
    return value


def get_objects(parent: Object, key: str) -> dict[str, Object]:
    """Return the objects by name under a key; raises ValueError if a value is no object."""
    found = get_object(parent, key)
    return {name: get_object(found, name) for name in found}


def get_text(parent: Object, key: str) -> str:
    """Return the text under a key, empty if absent or null; raises ValueError for other types."""
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected a text, got {type(value).__name__}")
    return value


# Some tools put the local time at the end into the file's name, as in
# results_2024-05-01T12-30-45.123456.json.
_IN_NAME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d)[-:](\d\d)[-:](\d\d)(?:\.\d+)?\.json\Z", re.ASCII)


def format_seconds(seconds: float) -> str:
    """Return the time N seconds after 1970 in ISO 8601; empty if it is out of range."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return ""
    return moment.isoformat(timespec="seconds")


def parse_local_time(text: str) -> str:
    """Return a time such as `2024-05-01 12:30`, in this machine's zone, as UTC in ISO 8601."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return ""


def find_finish_time(path: str) -> str:
    """Return the time in a file's name, or else the time of its last modification."""
    if match := _IN_NAME.search(path):
        return parse_local_time(":".join(match.groups()))
    try:
        return format_seconds(os.stat(path).st_mtime)
    except (OSError, ValueError):
        return ""
