"""The files in which indices of tasks are kept, and who may have written them.

A cache may lie in a directory of a whole group, and what an index says decides which files lm-eval
takes its tasks from. So every user has a directory below it that only this user can write to. A
directory or file of anybody else is ignored, except root's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from oellm.core import atomic, json_codec
from oellm.core.regular_files import is_ours

# Seconds to wait for another process that scans the same directory, and between two looks.
_PATIENCE_S = 60.0
_PAUSE_S = 0.1


class IndexCache:
    """The indices of one user, and those that root has put beside them."""

    def __init__(self, directory: Path) -> None:
        self._own = directory / f"tasks-{os.geteuid()}"
        self._readable = dict.fromkeys((self._own, directory / "tasks-0"))

    def read(self, name: str, key: list[Any]) -> Any:
        """Return the content of a file that was written for this key, or None."""
        for directory in self._readable:
            content = json_codec.read_cached(directory / name) if _is_trusted(directory) else None
            if isinstance(content, dict) and content.get("key") == key:
                return content.get("content")
        return None

    def write(self, name: str, key: list[Any], content: Any) -> None:
        """Write a file; if that is impossible, the next command has to do without it."""
        with contextlib.suppress(OSError):
            self._make()
            if _is_trusted(self._own):
                data = json_codec.dumps({"key": key, "content": content})
                atomic.write_file_with(self._own / name, lambda stream: _write(stream, data))

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait until no other process is in this context, but not for ever.

        It only saves work: where locks do not work, several processes do the same.
        """
        try:
            self._make()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            lock = os.open(self._own / f"{name}.lock", flags, 0o600)
        except OSError:
            yield
            return
        try:
            _wait_for(lock)
            yield
        finally:
            os.close(lock)

    def _make(self) -> None:
        self._own.parent.mkdir(parents=True, exist_ok=True)
        # Readable for everybody: what root has indexed serves all.
        self._own.mkdir(mode=0o755, exist_ok=True)


def _wait_for(lock: int) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if _try_lock(lock):
            return
        time.sleep(_PAUSE_S)


def _try_lock(lock: int) -> bool:
    """Return whether the lock is ours, or locks do not work here."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def _is_trusted(directory: Path) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and is_ours(status)


def _write(stream: BinaryIO, data: bytes) -> None:
    # Whatever the umask is: a file that others may write to is not read.
    os.fchmod(stream.fileno(), 0o644)
    stream.write(data)
