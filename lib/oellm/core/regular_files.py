"""Opens files that somebody else may have put where ours are expected.

Run directories, caches and result directories are often shared. A name in them may lead to a named
pipe, on which `open` waits for ever, to a device, to a file of another place, or to a file that
fills the memory. The functions of this module open only regular files, and never wait.

A link is followed if it belongs to this user, to root, or to the owner of the file that it leads
to: that owner could have put the content in its place. Links of anybody else are refused.
Directories on the way to a file may be links. `any_link` is for models, which people put together
from links to each other's files.

A path such as /dev/fd/63 or /dev/stdin is opened as it is: only the user can have named it, in
`command <(other command)`, and nobody can put anything there.

Each kind of file has a largest size:

    STATE      1 MiB     what programs note for each other: heartbeats, counts, locks, small caches
    DOCUMENT   256 MiB   what is parsed as a whole: run.json, results, failures, configuration
    None       any       what is read line by line: manifests, samples, records, logs
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from io import FileIO
from typing import BinaryIO, TextIO

from oellm.core.display import format_size
from oellm.errors import ExitStatus

STATE = 2**20
DOCUMENT = 2**28

_Path = str | os.PathLike[str]
_Opener = Callable[[str, int], int]

_NEVER_WAIT = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
# As many links as Linux follows.
_MOST_LINKS = 40
# Bytes of one read after the size that a file had when it was opened.
_PART = 2**16
# The user's own descriptors.
_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link"),
)


class RefusedFileError(OSError):
    """A file is not opened because of what it is; the text is the reason."""

    status = ExitStatus.USAGE

    def __init__(self, reason: str, path: _Path) -> None:
        super().__init__(errno.EINVAL, reason, os.fspath(path))

    def __str__(self) -> str:
        return str(self.strerror)


class TooLargeFileError(RefusedFileError):
    """A file has more bytes than its kind may have."""


def read_regular(path: _Path, largest: int = DOCUMENT, *, any_link: bool = False) -> bytes:
    """Return the content of a regular file of at most `largest` bytes.

    Raises RefusedFileError for any other file, and OSError as `open` does.
    """
    descriptor, size = _open(path, os.O_RDONLY, largest, any_link=any_link)
    try:
        # The byte more tells whether the file has grown since.
        content = os.read(descriptor, size + 1)
        if len(content) == size:
            return content
        parts = [content]
        size = len(content)
        while part := os.read(descriptor, _PART):
            parts.append(part)
            size += len(part)
            _require_size(size, largest, path)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def open_regular(path: _Path, *, buffering: int = _PART, any_link: bool = False) -> BinaryIO:
    """Open a regular file of any size to read bytes; raises as `read_regular` does.

    With buffering=0, it is no BufferedReader, but reads and seeks as one.
    """
    opener = _opener(os.O_RDONLY, any_link)
    return open(path, "rb", buffering=buffering, opener=opener)


def open_regular_text(path: _Path, *, encoding: str = "utf-8", errors: str = "strict") -> TextIO:
    """Open a regular file of any size to read text with its line ends unchanged.

    Raises as `read_regular` does.
    """
    opener = _opener(os.O_RDONLY)
    return open(path, encoding=encoding, errors=errors, newline="", opener=opener)


def append_regular(path: _Path) -> FileIO:
    """Open a regular file to append bytes, without a buffer; creates it if it is missing.

    Raises RefusedFileError if it is a link, has further names, or is no regular file.
    """
    opener = _opener(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return open(path, "ab", buffering=0, opener=opener)


def is_ours(status: os.stat_result) -> bool:
    """Return whether a file belongs to this user or to root, and nobody else may write to it."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & _OTHERS_MAY_WRITE


def _opener(flags: int, any_link: bool = False) -> _Opener:
    return lambda path, _: _open(path, flags, None, any_link=any_link)[0]


def _open(path: _Path, flags: int, largest: int | None, *, any_link: bool) -> tuple[int, int]:
    """Return a descriptor of a regular file and its size."""
    if not flags & os.O_CREAT and os.fspath(path).startswith(_DESCRIPTORS):
        return os.open(path, flags | os.O_CLOEXEC), 0
    owners: set[int] = set()
    try:
        descriptor = os.open(path, flags | _NEVER_WAIT, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        if flags & os.O_CREAT:
            raise RefusedFileError(f"it is {_describe(os.lstat(path))}", path) from None
        try:
            target, owners = _follow(path)
            descriptor = os.open(target, flags | _NEVER_WAIT)
        except OSError as error:
            # The user knows the link, not where it leads to.
            error.filename = os.fspath(path)
            raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedFileError(f"it is {_describe(status)}, not a regular file", path)
        if not any_link and owners - {os.geteuid(), 0, status.st_uid}:
            raise RefusedFileError("it is a link of another user", path)
        if flags & os.O_CREAT and status.st_nlink > 1:
            raise RefusedFileError("it is a file with several names", path)
        _require_size(status.st_size, largest, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def _follow(path: _Path) -> tuple[str, set[int]]:
    """Return the regular file that a link leads to, and the owners of all links on the way."""
    target = os.fspath(path)
    owners: set[int] = set()
    for _ in range(_MOST_LINKS):
        status = os.lstat(target)
        if stat.S_ISREG(status.st_mode):
            return target, owners
        if not stat.S_ISLNK(status.st_mode):
            raise RefusedFileError(f"it is {_describe(status)}, not a regular file", path)
        owners.add(status.st_uid)
        target = os.path.join(os.path.dirname(target), os.readlink(target))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)


def _require_size(size: int, largest: int | None, path: _Path) -> None:
    if largest is not None and size > largest:
        reason = f"it has {format_size(size)}, and at most {format_size(largest)} are read"
        raise TooLargeFileError(reason, path)


def _describe(status: os.stat_result) -> str:
    return next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "a special file")
