"""Sizes, durations, counts, times and names as people read them.

The package `humanize` would not do: the worker runs where only the standard library is sure to
be, and `2 hours and 5 minutes` is too wide for a column.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from typing import Protocol, TextIO

# Characters that could move the cursor, clear the screen, or turn the text around them (control
# characters, and those of bidirectional text and of invisible tags); those that XML cannot hold;
# and bytes that are no UTF-8, which Python has as lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)
_UNPRINTABLE_LINES = re.compile(_UNPRINTABLE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    """Return lines of text as a terminal may show them: `\ufffd` for each dangerous character.

    Line ends and tabs stay. Whatever others may have named or written passes through here, or
    through `one_line`, before it reaches a terminal.
    """
    return _UNPRINTABLE_LINES.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Return text on one line, as a terminal may show it."""
    return _UNPRINTABLE.sub("\ufffd", " ".join(text.splitlines()) if "\n" in text else text)


class Writer(Protocol):
    """What texts are written to."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...


def guard_terminal(stream: TextIO) -> Writer:
    """Return a stream, or if it is a terminal, one that writes only printable text to it."""
    return _Guarded(stream) if stream.isatty() else stream


class _Guarded:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> object:
        """Write printable text."""
        return self._stream.write(printable(text))


def shorten_middle(text: str, width: int) -> str:
    """Return text on one line, at most `width` wide; `…` replaces the middle of a longer one."""
    text = one_line(" ".join(text.split()))
    if text_width(text) <= width:
        return text
    head, tail = text, text
    while text_width(head) > width // 2:
        head = head[:-1]
    while text_width(tail) > width - width // 2 - 1:
        tail = tail[1:]
    return f"{head}…{tail}"


def shorten_end(text: str, width: int) -> str:
    """Return text of at most `width` letters; `…` replaces the end of a longer one."""
    return text if len(text) <= width else text[: width - 1] + "…"


def text_width(text: str) -> int:
    """Return the width of a text in letters; a Chinese character is two letters wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def format_thousands(number: float) -> str:
    """Return a number as axes show it: `500`, `1.5k`, `2M`."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.6g}{letter}"
    return f"{number:.6g}"


def format_count(number: int, noun: str) -> str:
    """Return a number of things whose plural ends in s: `1 file`, `3 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_size(size: float) -> str:
    """Return a number of bytes with three digits: `12.3 GB`."""
    unit = 0
    while size >= 999.5 and unit < len(_SIZE_UNITS) - 1:
        size /= 1000
        unit += 1
    digits = f"{size:.0f}" if size >= 99.5 or not unit else f"{size:.3g}"
    return f"{digits} {_SIZE_UNITS[unit]}"


def format_duration(seconds: float) -> str:
    """Return a duration in its largest units: `45 s`, `12 min`, `2 h 05 min`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def format_gpu_time(hours: float) -> str:
    """Return hours of one GPU with two digits: `1.5 GPU-hours`, `7.8 GPU-minutes`."""
    for unit, size in (("hours", 1.0), ("minutes", 60.0)):
        if hours * size >= 0.995:
            return f"{_two_digits(hours * size)} GPU-{unit}"
    return f"{_two_digits(hours * 3600)} GPU-seconds"


def _two_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.5 else f"{number:.2g}"


def utc_now() -> str:
    """Return the present time in UTC, in ISO 8601 with milliseconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def parse_time(text: str) -> datetime.datetime:
    """Return the time that an ISO 8601 text tells; it is UTC if the text names no zone.

    Raises ValueError for other text, and TypeError for what is no text.
    """
    # Python 3.10 does not read the Z.
    moment = datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
