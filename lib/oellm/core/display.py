"""Sizes, durations, times and names as people read them."""

from __future__ import annotations

import datetime
import re
import unicodedata

# What XML cannot hold, and control characters, which no font has.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def shown(text: str, width: int) -> str:
    """Return text on one line; what is longer than `width` has its middle replaced by `…`."""
    text = _UNSHOWN.sub("\ufffd", " ".join(text.split()))
    if extent(text) <= width:
        return text
    head, tail = text, text
    while extent(head) > width // 2:
        head = head[:-1]
    while extent(tail) > width - width // 2 - 1:
        tail = tail[1:]
    return f"{head}…{tail}"


def extent(text: str) -> int:
    """Return how wide a text is, in letters: Chinese ones are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def thousands(number: float) -> str:
    """Return a number as axes have it: 500, 1.5k, 2M."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.6g}{letter}"
    return f"{number:.6g}"


_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size_text(count: float) -> str:
    """Return a number of bytes for people: 12.3 GB."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return (
        f"{count:.0f} {_UNITS[unit]}"
        if count >= 99.5 or not unit
        else f"{count:.3g} {_UNITS[unit]}"
    )


def in_words(seconds: float) -> str:
    """Return a duration for people, in two digits or more: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def now() -> str:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
