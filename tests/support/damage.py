"""JSON that is damaged in one place, as a shared directory may hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# What may stand anywhere in a damaged file.
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 10**30, 1e308, 0.5, "", "x", "3", "\x00", "../../x"),
    *([], ["x"], {}, {"x": 1}, [[]], [None]),
)


def damaged(content: Any) -> Iterator[Any]:
    """Yield copies of JSON, each with another value, or nothing, in one place."""
    yield from VALUES
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items if isinstance(content, (dict, list)) else ():
        parts = damaged(value) if isinstance(value, (dict, list)) else iter(VALUES)
        for part in parts:
            copy = content.copy()
            copy[key] = part
            yield copy
        copy = content.copy()
        del copy[key]
        yield copy
