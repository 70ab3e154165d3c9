"""JSON in and out, with orjson where it is installed.

The worker also runs in images that have nothing but the framework; there the standard library
does the same work, only slower.
"""

from __future__ import annotations

import json
import math
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]


def loads(data: bytes) -> Any:
    """Parse JSON; raises ValueError for anything that is not, NaN and Infinity included."""
    if orjson is not None:
        return orjson.loads(data)
    return json.loads(data, parse_constant=_refuse)


def dumps(value: Any, indent: bool = False) -> bytes:
    """Return JSON in UTF-8 on one line, or indented by two; NaN and Infinity become null.

    Values of other types (NumPy scalars, functions, paths) are written as their item or text.
    """
    if orjson is not None:
        return orjson.dumps(_plain(value), option=orjson.OPT_INDENT_2 if indent else 0)
    layout: dict[str, Any] = {"indent": 2} if indent else {"separators": (",", ":")}
    return json.dumps(_plain(value), ensure_ascii=False, **layout).encode("utf-8", "replace")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _plain(value: Any) -> Any:
    """Return `value` in plain JSON types; NumPy's floats are float, yet orjson refuses them."""
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
        # Lone surrogates (undecodable bytes of a path, a model's broken output) are no UTF-8.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 1) == 0:
        return _plain(item())
    return str(value)
