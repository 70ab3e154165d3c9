"""The files that a program has left in its output: regular files go out, nothing else does."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from oellm.sandbox import frames
from oellm.sandbox.contained import Refused
from oellm.sandbox.frames import FileBegin

# Directories within each other.
_DEEPEST = 8
# Of more refused names, only the first ones are reported.
_MOST_REFUSED = 50
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _RefusedError(Exception):
    """Something is not copied; the text is the reason."""


class _Budget:
    """What may still be copied."""

    def __init__(self, size: int, files: int) -> None:
        self._size, self._files = size, files

    def spend(self, size: int) -> None:
        if self._files < 1:
            raise _RefusedError("there are too many files")
        if size > self._size:
            raise _RefusedError(f"the output would be larger than permitted: {size} bytes more")
        self._files -= 1
        self._size -= size


def copy_regular_files(directory: str, size: int, files: int) -> None:
    """Send the regular files below a directory: at most that many, and that many bytes in total."""
    budget = _Budget(size, files)
    refused = 0
    root = os.open(directory, _DIRECTORY)
    try:
        for problem in _copy(root, "", budget):
            refused += 1
            if refused <= _MOST_REFUSED:
                frames.send_refused(problem)
    finally:
        os.close(root)
    if refused > _MOST_REFUSED:
        frames.send_refused(Refused("", f"{refused - _MOST_REFUSED} more"))


def _copy(directory: int, prefix: str, budget: _Budget) -> Iterator[Refused]:
    for name in sorted(os.listdir(directory), key=os.fsencode):
        path = prefix + name
        try:
            _require_plain(name)
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _copy_directory(directory, path, budget)
            else:
                _copy_file(directory, path, budget)
        except _RefusedError as error:
            yield Refused(ascii(path), str(error))
        except OSError as error:
            yield Refused(ascii(path), error.strerror or str(error))


def _copy_directory(parent: int, path: str, budget: _Budget) -> Iterator[Refused]:
    if path.count("/") >= _DEEPEST:
        raise _RefusedError(f"it is more than {_DEEPEST} directories deep")
    descriptor = os.open(os.path.basename(path), _DIRECTORY, dir_fd=parent)
    try:
        yield from _copy(descriptor, f"{path}/", budget)
    finally:
        os.close(descriptor)


def _copy_file(parent: int, path: str, budget: _Budget) -> None:
    name = os.path.basename(path)
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        raise _RefusedError("it is no regular file")
    descriptor = os.open(name, _FILE, dir_fd=parent)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _RefusedError("it is no regular file")
        if status.st_nlink > 1:
            raise _RefusedError("it has further names")
        budget.spend(status.st_size)
        frames.send_file(FileBegin(path, status.st_size), descriptor)
    finally:
        os.close(descriptor)


def _require_plain(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _RefusedError("its name is not UTF-8") from None
    if not name.isprintable() or "\\" in name:
        raise _RefusedError("its name has unprintable characters")
