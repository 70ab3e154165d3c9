"""JSON in and out, with orjson if it is installed.

The worker also runs in images that hold nothing but the framework. There the standard library
does the same work, only slower.
"""

from __future__ import annotations

import enum
import json
import math
import os
from pathlib import Path
from typing import Any, TypeGuard

from oellm.core.regular_files import DOCUMENT, is_ours, open_regular

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

# With these, orjson raises TypeError for each value that it would not write as `_plain` does.
_STRICT = (
    0
    if orjson is None
    else orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that a metric or standard error can have."""
    # JSON's true is no number, though Python's bool is an int. NumPy's floats are Python floats.
    if type(value) is not int and not isinstance(value, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def loads(data: bytes) -> Any:
    """Parse JSON in UTF-8; raises ValueError for anything else.

    Also refused are NaN, infinity and numbers as large, escapes that are no character, a byte order
    mark, and values that are nested more than about a thousand deep. Integers of more than 64 bits
    become floating-point numbers. Of several members with one name the last counts.
    """
    if orjson is not None:
        return orjson.loads(data)
    try:
        value = json.loads(
            data.decode(), parse_constant=_refuse, parse_float=_number, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if rb"\u" in data:
        # Raises ValueError for a lone surrogate.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_cached(path: Path, largest: int = DOCUMENT) -> Any:
    """Return the value in a file of at most `largest` bytes, of a cache that others may share.

    Returns None if the file is missing, damaged or larger, or if others may write to it.
    """
    try:
        with open_regular(path) as stream:
            if not is_ours(os.fstat(stream.fileno())):
                return None
            return loads(stream.read(largest))
    except (OSError, ValueError, RecursionError):
        return None


def dumps(value: Any, indent: bool = False) -> bytes:
    """Return JSON in UTF-8 on one line, or indented by two; NaN and Infinity become null.

    Values of other types (NumPy scalars, functions, paths) are written as their item or text, and
    integers of more than 64 bits as text. Sets become sorted lists of texts.
    """
    if orjson is not None:
        layout_option = orjson.OPT_INDENT_2 if indent else 0
        try:
            return orjson.dumps(value, option=layout_option | _STRICT)
        except TypeError:
            return orjson.dumps(_plain(value), option=layout_option)
    layout: dict[str, Any] = {"indent": 2} if indent else {"separators": (",", ":")}
    return json.dumps(_plain(value), ensure_ascii=False, **layout).encode("utf-8", "replace")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _integer(text: str) -> int | float:
    # Python refuses to parse integers of thousands of digits.
    value = int(text) if len(text) < 21 else None
    return value if value is not None and -(2**63) <= value < 2**64 else _number(text)


def _plain(value: Any) -> Any:
    """Return a value in plain JSON types; orjson refuses NumPy floats although they are float."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, str):
        # UTF-8 has no lone surrogates (undecodable bytes of a path, a model's broken output).
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 1) == 0:
        return _plain(item())
    return str(value)
