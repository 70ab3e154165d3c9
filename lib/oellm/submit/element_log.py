"""The file that keeps what a local array element prints, without secrets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from oellm.core import atomic
from oellm.core.log import Log
from oellm.core.redaction import redact_bytes
from oellm.core.regular_files import RefusedFileError, append_regular

# A longer line is written in parts. In bytes.
_LONGEST_LINE = 2**16


class ElementLog:
    """Appends lines to a file. If that fails, `log` gets the reason once, and the file has gaps.

    Whatever has the file's name and is no log of this user gets another name.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._unfinished = b""
        self._stream: FileIO | None = None
        self._has_gaps = False
        try:
            self._stream = _open(path)
        except OSError as error:
            self._note_gap(error)

    def add(self, data: bytes) -> Iterator[str]:
        """Keep data that an element printed; yield the lines that it completes."""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if len(self._unfinished) > _LONGEST_LINE:
            lines.append(self._unfinished)
            self._unfinished = b""
        if lines:
            self._write(redact_bytes(b"\n".join(lines)) + b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")

    def close(self) -> None:
        """Keep the line that was not completed, and close the file."""
        if self._unfinished:
            self._write(redact_bytes(self._unfinished) + b"\n")
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _write(self, data: bytes) -> None:
        try:
            while data and self._stream is not None:
                data = data[self._stream.write(data) :]
        except OSError as error:
            self._note_gap(error)

    def _note_gap(self, error: OSError) -> None:
        if not self._has_gaps:
            self._has_gaps = True
            reason = error.strerror or error
            self._log(f"{self._path}: {reason}: the log has gaps, the rows go on")


def _open(path: Path) -> FileIO:
    try:
        return append_regular(path)
    except RefusedFileError:
        os.replace(path, path.with_name(f"{path.name}.refused-{atomic.new_attempt()}"))
        return append_regular(path)
