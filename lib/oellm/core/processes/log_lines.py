"""What libraries and tasks print: whole lines, without secrets, in logs of jobs with the time."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TextIO

from oellm.core.redaction import redact

# A longer line is written in parts. In characters.
_LONGEST = 2**16

_streams: list[_LogLines] = []


def keep_lines(*, is_stamped: bool) -> None:
    """Make this process, and its forks, write whole lines to stdout and stderr, without secrets.

    With `is_stamped`, each line begins with the time. Programs that this process starts write as
    they like.
    """
    if not _streams:
        os.register_at_fork(after_in_child=_forget_unfinished)
        sys.stdout = _LogLines(sys.stdout, is_stamped)
        sys.stderr = _LogLines(sys.stderr, is_stamped)


def _forget_unfinished() -> None:
    for stream in _streams:
        stream.forget()


class _LogLines(io.TextIOBase):
    """A stream of text whose lines are written at once."""

    def __init__(self, stream: TextIO, is_stamped: bool) -> None:
        self._stream = stream
        self._is_stamped = is_stamped
        self._unfinished = ""
        self._is_line_start = True
        _streams.append(self)

    @property
    def buffer(self) -> object:
        """The stream of bytes below."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the stream writes what it cannot encode."""
        return self._stream.errors

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write the lines that the text completes; keep the rest."""
        self._unfinished += text
        if "\n" in text or len(self._unfinished) > _LONGEST:
            lines, end, rest = self._unfinished.rpartition("\n")
            if len(rest) > _LONGEST:
                lines, end, rest = lines + end + rest, "", ""
            self._unfinished = rest
            self._emit(lines + end)
        return len(text)

    def flush(self) -> None:
        """Write what is kept, too."""
        text, self._unfinished = self._unfinished, ""
        if text:
            self._emit(text)
        self._stream.flush()

    def close(self) -> None:
        """Write what is kept; the stream below stays open."""
        self.flush()

    def forget(self) -> None:
        """Forget what is kept: the process that wrote it has it, too."""
        self._unfinished = ""

    def _emit(self, text: str) -> None:
        text = redact(text)
        if self._is_stamped:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S ")
            *lines, rest = text.split("\n")
            first = stamp if self._is_line_start else ""
            text = first + f"\n{stamp}".join([*lines, rest] if rest else lines)
            text += "" if rest else "\n"
        self._is_line_start = text.endswith("\n")
        self._stream.write(text)
        self._stream.flush()
