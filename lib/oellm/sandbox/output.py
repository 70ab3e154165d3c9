"""The directory that gets what a program in the sandbox has left: new regular files, no more."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from oellm.sandbox.contained import Limits, Refused
from oellm.sandbox.frames import FileBegin, Frame
from oellm.sandbox.job import ProgramEnd

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OutputDirectory:
    """Writes the files that the job layer sends. Existing files stay as they are.

    Attributes:
        copied: The files that were written, by their paths in the directory.
        refused: What was not written, and why.
        end: How the program ended; None as long as that is not known.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.copied: list[str] = []
        self.refused: list[Refused] = []
        self.end: ProgramEnd | None = None
        self._path = path
        self._bytes_left = limits.output_bytes
        self._files_left = limits.output_files
        self._file: int | None = None

    def take(self, frames: Iterable[Frame]) -> None:
        """Take frames. Raises OSError if a file cannot be written.

        Raises ValueError if the frames are not what the job layer may send.
        """
        for frame in frames:
            if isinstance(frame, bytes):
                self._write(frame)
            elif isinstance(frame, FileBegin):
                self._begin(frame)
            elif isinstance(frame, Refused):
                self.refused.append(frame)
            else:
                self.end = frame

    def close(self) -> None:
        """Close the last file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self, begin: FileBegin) -> None:
        self.close()
        names = begin.name.split("/")
        if not all(name and name not in (".", "..") and "\0" not in name for name in names):
            raise ValueError(f"no path within the output: {begin.name!r}")
        self._files_left -= 1
        self._bytes_left -= begin.size
        if min(self._files_left, self._bytes_left, begin.size) < 0:
            raise ValueError("more files than the job layer may send")
        path = self._path / begin.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, _NEW, 0o644)
        except FileExistsError:
            self.refused.append(Refused(begin.name, "there is such a file already"))
        else:
            self.copied.append(begin.name)

    def _write(self, data: bytes) -> None:
        while data and self._file is not None:
            data = data[os.write(self._file, data) :]
