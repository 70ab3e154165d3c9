"""Downloads of files whose digest is known before: resumed after a cut, checked at the end.

What has arrived lies in a partial file beside the image, named after the digest, so that whoever
pulls the same image after a kill continues with it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import http.client
import os
import re
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from oellm.clusters.image_digest import hash_file
from oellm.core import atomic
from oellm.core.display import format_size
from oellm.core.log import Log
from oellm.core.processes.transfer_progress import TransferProgress
from oellm.core.regular_files import RefusedFileError, append_regular, is_ours
from oellm.core.retry import Backoff, retry
from oellm.errors import MachineError, OellmError
from oellm.hub.cache import free_space
from oellm.images.web_requests import SilentServerError, TransferError, interruption

_CHUNK = 2**20
# Without a byte between two failures, the second one is final.
_BACKOFF = Backoff(total_s=300.0, first_s=1.0, longest_s=60.0)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RemoteImage(NamedTuple):
    """An image file elsewhere.

    Attributes:
        label: What messages call it.
        sha256: The SHA-256 that its content must have.
        size: Its size in bytes, None if nobody knows it yet.
        open_from: Returns an answer with the content from a byte on, or with all of it (status
            200). Raises TransferError.
    """

    label: str
    sha256: str
    size: int | None
    open_from: Callable[[int], http.client.HTTPResponse]


class WrongDigestError(OellmError):
    """The content is not what it must be."""

    def __init__(self, label: str, expected: str, found: str, *, kind: str) -> None:
        page = f", in a web page ({kind})" if kind == "text/html" else ""
        super().__init__(
            f"{label}: wrong content: expected sha256 {expected}, found {found}{page}; "
            "nothing is kept"
        )


class FullDiskError(MachineError):
    """There is no room for an image."""


def download_image(remote: RemoteImage, image: Path, *, log: Log, status: Log | None) -> Path:
    """Return a file beside `image` that has all of a remote one, checked and on the disk.

    Only one process at a time may download to an image. `log` gets messages, and `status` shows a
    line on a terminal. Raises TransferError, WrongDigestError, FullDiskError or OSError. What has
    arrived stays for the next try, unless it is wrong or the disk is full.
    """
    partial = _partial_path(image, remote.sha256)
    remove_partial_files(image, kept=partial)
    with (
        _explaining_full_disk(partial),
        _Download(remote, partial, log) as download,
        TransferProgress("pulling", download.amount, log=log, status=status),
    ):
        download.complete()
    return partial


def remove_partial_files(image: Path, kept: Path | None = None) -> None:
    """Remove what unfinished downloads to an image have left, but for one file."""
    for path in image.parent.glob(f".{glob.escape(image.name)}.*.partial"):
        if path != kept:
            path.unlink(missing_ok=True)


def _partial_path(image: Path, sha256: str) -> Path:
    return image.with_name(f".{image.name}.{sha256[:16]}.partial")


@contextlib.contextmanager
def _explaining_full_disk(partial: Path) -> Iterator[None]:
    try:
        with atomic.naming_file(partial):
            yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        partial.unlink(missing_ok=True)
        raise FullDiskError(
            f"{partial.parent}: {error.strerror}: nothing is kept; free some space"
        ) from None


def _open_own(partial: Path) -> FileIO:
    """Open a partial file to append to it; replace one of another user by an empty one.

    Whoever owns the file could change it after the check.
    """
    with contextlib.suppress(PermissionError, RefusedFileError):
        file = append_regular(partial)
        # Of the open file: another one may get the name at any time.
        if is_ours(os.fstat(file.fileno())):
            return file
        file.close()
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return open(partial, "ab", buffering=0, opener=lambda path, _: os.open(path, flags, 0o644))


class _Download:
    """One download: a context with the open partial file."""

    def __init__(self, remote: RemoteImage, partial: Path, log: Log) -> None:
        self._remote = remote
        self._partial = partial
        self._log = log
        self._size = remote.size
        self._done = self._most = 0
        self._has_answered = False
        # What the server calls the content.
        self._kind = ""

    def __enter__(self) -> _Download:
        self._file = _open_own(self._partial)
        self._done = self._length()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        is_empty = not self._length()
        self._file.close()
        if error and is_empty:
            self._partial.unlink(missing_ok=True)

    def amount(self) -> tuple[int, int | None]:
        """Return the bytes that are here, and those of all."""
        return self._done, self._size

    def complete(self) -> None:
        """Fetch what is missing, and check all."""
        if self._done:
            self._log(f"{self._remote.label}: continuing after {format_size(self._done)}")
        self._require_room()
        self._most = self._done
        while not self._is_whole():
            self._fetch_further()
        self._verify()
        os.fsync(self._file.fileno())

    def _is_whole(self) -> bool:
        return self._size is not None and self._done >= self._size

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _start_again(self) -> None:
        os.ftruncate(self._file.fileno(), 0)
        self._done = 0

    def _require_room(self) -> None:
        needed = (self._size or 0) - self._done
        free = free_space(str(self._partial.parent))
        if needed > free:
            raise FullDiskError(
                f"no room: {self._remote.label} needs {format_size(needed)} more in "
                f"{self._partial.parent}, but only {format_size(free)} are free"
            )

    def _fetch_further(self) -> None:
        """Fetch until the patience ends; raises TransferError if there is no more than before.

        A server may begin at the first byte each time.
        """
        try:
            self._fetch_patiently()
        except TransferError:
            if self._done <= self._most:
                raise
            self._most = self._done

    def _fetch_patiently(self) -> None:
        retry(
            self._fetch,
            _BACKOFF,
            may_pass=self._may_pass,
            before_retry=lambda error, wait: self._log(
                f"{error}; continuing after {format_size(self._done)} in {wait:.0f} s"
            ),
            requested_pause=lambda error: getattr(error, "pause_s", None),
        )

    def _may_pass(self, error: Exception) -> bool:
        # A server that has answered is there.
        is_down = isinstance(error, SilentServerError) and self._has_answered
        return is_down or (isinstance(error, TransferError) and error.may_pass)

    def _fetch(self) -> None:
        """Append what one answer brings; raises TransferError if that is not all."""
        try:
            answer = self._remote.open_from(self._done)
        except TransferError as error:
            if error.code == 416 and self._size is None:
                # The partial file has all that there is; its digest will tell.
                self._size = self._done
                return
            raise
        self._has_answered = True
        self._kind = answer.headers.get_content_type()
        with answer:
            self._place(answer)
            self._append(answer)
        if not self._is_whole():
            raise TransferError(f"{self._remote.label}: the connection was cut", may_pass=True)

    def _place(self, answer: http.client.HTTPResponse) -> None:
        """Start again if an answer begins at the first byte; learn the size from it."""
        part = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if self._done and (answer.status != 206 or not part or int(part[1]) != self._done):
            if answer.status != 200:
                raise TransferError(f"{self._remote.label}: the server sends another part")
            self._start_again()
        if self._size is None and answer.length is not None:
            self._size = self._done + answer.length
            self._require_room()

    def _append(self, answer: http.client.HTTPResponse) -> None:
        while not self._is_whole():
            try:
                chunk = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise interruption(error, self._remote.label) from None
            if not chunk:
                if self._size is None:
                    self._size = self._done
                return
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        if self._size is not None:
            # A server that sends more than it said sends something else: it fails the check.
            left = left[: self._size - self._done]
        if self._length() != self._done:
            # The locks of some file systems do nothing, or hold for one machine only.
            raise TransferError(
                f"{self._remote.label}: another process writes to {self._partial}: try again later"
            )
        while left:
            count = self._file.write(left)
            self._done += count
            left = left[count:]

    def _verify(self) -> None:
        # What has arrived is not what the file has if another process writes to it.
        found = hash_file(f"/proc/self/fd/{self._file.fileno()}")
        if found != self._remote.sha256 or self._done != self._size:
            self._start_again()
            raise WrongDigestError(self._remote.label, self._remote.sha256, found, kind=self._kind)
