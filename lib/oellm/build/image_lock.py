"""The lock of an image: one process makes it, others wait and find it made.

The kernel drops a lock when its process ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from oellm.errors import OellmError

# What a file system without locks says, or NFS if a lock cannot be written to.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF)


class ForeignLockError(OellmError):
    """A lock of another user cannot be opened."""


@contextlib.contextmanager
def image_lock(image: Path, when_busy: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of an image; the value is False if the file system has no locks.

    Calls `when_busy` before it waits for another process.
    """
    path = image.with_name(f".{image.name}.lock")
    with contextlib.ExitStack() as stack:
        is_held = False
        while not is_held:
            # The holder before removed the file that we waited for.
            stack.pop_all().close()
            descriptor = _open(path)
            stack.callback(os.close, descriptor)
            try:
                is_held = _take(descriptor, path, when_busy)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        try:
            yield is_held
        finally:
            if is_held:
                # While it is held, so that nobody takes it under this name before.
                with contextlib.suppress(OSError):
                    path.unlink()


def _open(path: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR, 0o666)
    except PermissionError:
        # Another user's lock.
        try:
            return os.open(path, flags | os.O_RDONLY)
        except PermissionError:
            raise ForeignLockError(
                f"{path}: another user makes the image, or was stopped: try again later, "
                "or remove that file"
            ) from None


def _take(descriptor: int, path: Path, when_busy: Callable[[], None]) -> bool:
    """Take the lock; return False if the file is no longer the one of this name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        when_busy()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
