"""What a program prints: whole lines in the job's log, and the last ones for a failure."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from typing import TextIO

from oellm.core.display import format_size
from oellm.core.redaction import redact

# A longer line is written in parts, and more of a program's output is left out. In bytes.
_LONGEST_LINE = 2**16
_MOST = 2**26
_PART = 2**16
# Lines that a failure keeps.
_LAST_LINES = 40
# Escape sequences of terminals: colours and movements.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class ProgramOutput:
    """The output of a program; `reader` is the readable end of its pipe, which this closes.

    Progress bars draw over their line again and again; the log gets what they end with.
    """

    def __init__(self, reader: int, log: TextIO | None = None) -> None:
        os.set_blocking(reader, False)
        self._reader = reader
        self._log = log or sys.stderr
        self._unfinished = b""
        self._size = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable if the program has printed something."""
        return self._reader

    def read(self) -> bool:
        """Write what the program has printed; return False once all of its processes have ended."""
        try:
            part = os.read(self._reader, _PART)
        except BlockingIOError:
            return True
        if not part:
            return False
        *lines, rest = (self._unfinished + part).split(b"\n")
        for line in lines:
            self._write(line)
        rest = _last_drawn(rest)
        if len(rest) > _LONGEST_LINE:
            self._write(rest)
            rest = b""
        self._unfinished = rest
        return True

    def close(self) -> None:
        """Write what is left."""
        while self._can_read_more():
            pass
        if self._unfinished:
            self._write(self._unfinished)
            self._unfinished = b""
        os.close(self._reader)

    @property
    def last_lines(self) -> list[str]:
        """The last lines that are not empty, without secrets."""
        return [redact(line) for line in self._last]

    def _can_read_more(self) -> bool:
        before = self._size, len(self._unfinished)
        is_open = self.read()
        return is_open and before != (self._size, len(self._unfinished))

    def _write(self, line: bytes) -> None:
        text = _ESCAPES.sub("", _last_drawn(line.rstrip(b"\r")).decode("utf-8", "replace"))
        if text.strip():
            self._last.append(text)
        is_first_left_out = self._size <= _MOST < self._size + len(line) + 1
        self._size += len(line) + 1
        if self._size <= _MOST:
            self._log.write(redact(text) + "\n")
            self._log.flush()
        elif is_first_left_out:
            self._log.write(f"more than {format_size(_MOST)}: the rest is left out\n")
            self._log.flush()


def _last_drawn(line: bytes) -> bytes:
    """Return what stands on a line after everything before a carriage return was drawn over."""
    return line.rpartition(b"\r")[2]
