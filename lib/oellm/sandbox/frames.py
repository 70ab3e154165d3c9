"""What the job layer sends: files with their content, what it refused, and the end.

A frame is a line of JSON; that of a file is followed by the file's content.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from oellm.sandbox.contained import Refused
from oellm.sandbox.job import ProgramEnd

_OUT = 1
# A longer line is no frame. In bytes.
_LONGEST = 1 << 16


class FileBegin(NamedTuple):
    """A file whose content follows: its path in the output, and its size."""

    name: str
    size: int


Frame = FileBegin | Refused | ProgramEnd | bytes


def send_file(begin: FileBegin, descriptor: int) -> None:
    """Send a file from a descriptor; one that is shorter than its size is filled up with zeros."""
    _send({"file": begin.name, "size": begin.size})
    left = begin.size
    while left:
        part = os.read(descriptor, min(left, 1 << 20)) or bytes(min(left, 1 << 20))
        _write(part)
        left -= len(part)


def send_refused(refused: Refused) -> None:
    """Send what was not copied, and why."""
    _send({"refused": refused.name, "reason": refused.reason})


def send_end(end: ProgramEnd) -> None:
    """Send how the program ended; this is the last frame."""
    _send({"end": end})


class FrameParser:
    """Frames from bytes that arrive in any parts."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete, and the content of a file in parts, as bytes.

        Raises ValueError, TypeError or LookupError for what is no frame.
        """
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                yield part
                continue
            line, end, data = data.partition(b"\n")
            self._line += line
            if len(self._line) > _LONGEST:
                raise ValueError("a frame without an end")
            if end:
                frame = _parse(self._line)
                self._line = b""
                self._left = frame.size if isinstance(frame, FileBegin) else 0
                yield frame


def _parse(line: bytes) -> FileBegin | Refused | ProgramEnd:
    frame = json.loads(line)
    if "end" in frame:
        return ProgramEnd(*frame["end"])
    if "refused" in frame:
        return Refused(str(frame["refused"]), str(frame["reason"]))
    return FileBegin(str(frame["file"]), int(frame["size"]))


def _send(frame: dict[str, object]) -> None:
    _write(json.dumps(frame).encode() + b"\n")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(_OUT, data) :]
