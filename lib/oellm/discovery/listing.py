"""A proposal as a table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from oellm.core import json_codec
from oellm.core.display import one_line, text_width
from oellm.discovery.proposed_setting import ProposedSetting

_HEADS = ("setting", "value", "where it comes from")
# A longer value has a line of its own.
_WIDEST_VALUE = 26
_GAP = 2
# What is written instead of a value that somebody must fill in.
_OPEN = "?"


def show_value(value: Any) -> str:
    """Return the value of a setting on one line."""
    if value is None:
        return _OPEN
    if isinstance(value, dict):
        value = [f"{name}={part}" for name, part in value.items() if part is not None]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return one_line(value if isinstance(value, str) else json_codec.dumps(value).decode())


def list_settings(settings: Sequence[ProposedSetting], width: int) -> Iterator[str]:
    """Yield the lines of a table: setting, value, and where it comes from."""
    rows = [(each.key, show_value(each.value), _explain(each)) for each in settings]
    first = max(len(key) for key, _, _ in [*rows, _HEADS])
    fitting = [text_width(value) for _, value, _ in rows if text_width(value) <= _WIDEST_VALUE]
    second = max([len(_HEADS[1]), *fitting])
    left = first + second + 2 * _GAP
    for key, value, origin in [_HEADS, *rows]:
        lines = _wrap(origin, width - left) or [""]
        if text_width(value) <= second:
            pad = " " * (second - text_width(value) + _GAP)
            yield (f"{key:{first}}  {value}{pad}{lines.pop(0)}").rstrip()
        else:
            parts = _wrap(value, width - first - _GAP)
            yield f"{key:{first}}  {parts.pop(0)}"
            yield from (" " * (first + _GAP) + part for part in parts)
        yield from (" " * left + line for line in lines)


def _wrap(text: str, width: int) -> list[str]:
    """Return a text as lines; a path is never broken."""
    return textwrap.wrap(text, max(20, width), break_on_hyphens=False, break_long_words=False)


def _explain(setting: ProposedSetting) -> str:
    text = f"fill in: {setting.origin}" if setting.is_open else setting.origin
    others = ", ".join(other.value for other in setting.others)
    return f"{text}; also: {others}" if others else text
