"""Values in results of other tools, whose types nobody has checked."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

Object = dict[str, Any]

# What a float has exactly.
_MOST = 2**53
# Characters of a value that a message shows.
_LONGEST = 40


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that a metric or standard error can have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: Any) -> TypeGuard[int]:
    """Return whether a value is a number of things, small enough to reckon with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def spelled(value: Any) -> str:
    """Return a value that is no finite number as a remark shows it: short texts, or a type."""
    if value is None:
        return "null"
    if isinstance(value, (str, float)):
        text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
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
