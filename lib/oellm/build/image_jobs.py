"""One image is made: in a process of its own, under its lock, and put in place as a whole."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from oellm.build.disk_room import temporary_directory
from oellm.build.image_lock import image_lock
from oellm.build.outcomes import ImageOutcome, ImageStatus
from oellm.clusters.image_digest import ImageDigests, hash_file
from oellm.core import atomic, display
from oellm.core.paths import make_directory
from oellm.errors import ExitStatus, OellmError
from oellm.images.downloads import remove_partial_files
from oellm.images.image_files import read_labels
from oellm.images.image_record import (
    StoredImage,
    log_path,
    put_in_place,
    recover_record,
    require_place,
)

# Seconds after which nobody writes an attempt any more.
_OLD_S = 24 * 3600.0
# Seconds that a program has to end, and to remove what it has unpacked.
_GRACE_S = 10.0


class MadeImage(NamedTuple):
    """A whole image that has not got its name yet; `digest` is its SHA-256, None if unknown."""

    path: Path
    digest: str | None


class ImageMaker(Protocol):
    """What makes an image.

    Attributes:
        name: The name of the image.
        path: Where it will be.
        status: What an image is that it has made.
        source: Where the image comes from, as in its record.
        inputs: What the image is made of, as in its record.
    """

    name: str
    path: Path
    status: ImageStatus
    source: str
    inputs: Mapping[str, Any]

    def why_needed(self) -> tuple[str, StoredImage | None]:
        """Return why the image must be made, empty if it need not; and its record."""

    def make(self, attempt: Path, workspace: Path) -> MadeImage:
        """Make the image; `workspace` is an empty directory, removed later.

        The image is `attempt`, which does not outlive a failure, or another file beside it, which
        does. stdout and stderr are the log. Raises OellmError or OSError.
        """


class Begun(NamedTuple):
    """A message: the image is being made, and why."""

    reason: str


class Waiting(NamedTuple):
    """A message: another process makes the image."""


class NotLocked(NamedTuple):
    """A message: the file system has no locks."""


class ReadOnlyError(OellmError):
    """An image must be made in a directory that this user may not write to."""


class _StoppedError(BaseException):
    """SIGTERM has come."""


class ImageJob(NamedTuple):
    """An image to make.

    Attributes:
        maker: Makes it.
        runtime: The container runtime, which tells the labels.
        environ: The environment.
        is_forced: Whether it is made although it is up to date.
    """

    maker: ImageMaker
    runtime: str
    environ: Mapping[str, str]
    is_forced: bool

    def run(self, connection: Connection) -> int:
        """Make the image, and send messages, the last of which is an ImageOutcome.

        Runs in a process that may end at any time; stdout and stderr become the image's log.
        """
        signal.signal(signal.SIGTERM, _stop)
        try:
            connection.send(self._outcome(connection))
        except _StoppedError:
            return 128 + signal.SIGTERM
        except (OellmError, OSError, ValueError, subprocess.SubprocessError) as error:
            connection.send(self._failure(error))
            return ExitStatus.FAILED
        return ExitStatus.DONE

    def _failure(self, error: Exception) -> ImageOutcome:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return ImageOutcome(self.maker.name, self.maker.path, ImageStatus.FAILED, reason=text)

    def _outcome(self, connection: Connection) -> ImageOutcome:
        maker = self.maker
        make_directory(maker.path.parent)
        if not os.access(maker.path.parent, os.W_OK):
            return self._outcome_of_others()
        with image_lock(maker.path, lambda: connection.send(Waiting())) as is_locked:
            if is_locked:
                recover_record(maker.path)
            reason, record = maker.why_needed()
            if not reason and not self.is_forced:
                status = ImageStatus.UP_TO_DATE
                return ImageOutcome(maker.name, maker.path, status, record=record)
            if is_locked:
                _remove_attempts(maker.path)
            else:
                connection.send(NotLocked())
            require_place(maker.path)
            connection.send(Begun(reason or "--force"))
            started = time.monotonic()
            _redirect_output(log_path(maker.path))
            record = self._make_whole(started)
        seconds = time.monotonic() - started
        return ImageOutcome(maker.name, maker.path, maker.status, record=record, seconds=seconds)

    def _outcome_of_others(self) -> ImageOutcome:
        """Return the outcome if nothing can be written; raises ReadOnlyError if that is needed."""
        maker = self.maker
        reason, record = maker.why_needed()
        if reason or self.is_forced:
            raise ReadOnlyError(f"{maker.path.parent} cannot be written: use another --dir")
        return ImageOutcome(maker.name, maker.path, ImageStatus.UP_TO_DATE, record=record)

    def _make_whole(self, started: float) -> StoredImage:
        maker = self.maker
        attempt = atomic.staging_path(maker.path, f"{_host()}-{atomic.new_attempt()}")
        try:
            with _workspace(maker.path, temporary_directory(self.environ)) as workspace:
                made = maker.make(attempt, workspace)
            status = made.path.stat()
            record = StoredImage(
                name=maker.name,
                digest=made.digest or hash_file(made.path),
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                labels=read_labels(self.runtime, made.path),
                source=maker.source,
                inputs=maker.inputs,
                seconds=round(time.monotonic() - started, 1),
                finished=display.utc_now(),
            )
            _flush_to_disk(made.path)
            put_in_place(made.path, maker.path, record)
            remove_partial_files(maker.path)
        finally:
            attempt.unlink(missing_ok=True)
        ImageDigests(self.environ, lambda _: None).keep_digest(maker.path, record.digest)
        return record


def run_logged(argv: list[str], env: Mapping[str, str], directory: Path) -> int:
    """Run a program whose output goes to the log; return its exit status.

    If this process has to stop, the program gets some seconds to end.
    """
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=dict(env), cwd=directory)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        process.kill()
        raise


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())


def _remove_attempts(image: Path) -> None:
    """Remove what killed processes have left beside an image.

    The locks of some file systems are only for one host, so another one may be building; what is
    old is left over there, too.
    """
    ours = f".{image.name}.{_host()}-"
    for attempt in image.parent.glob(f".{glob.escape(image.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            is_old = time.time() - attempt.lstat().st_mtime > _OLD_S
            if is_old or attempt.name.startswith(ours):
                attempt.unlink()


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _StoppedError


def _redirect_output(log: Path) -> None:
    """Make a new file the stdout and stderr of this process."""
    log.unlink(missing_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


@contextlib.contextmanager
def _workspace(image: Path, parent: Path) -> Iterator[Path]:
    """Make an empty directory for what a build unpacks, and remove it afterwards.

    Its name is always the same on a host, so that the next build removes what a killed one has
    left, and nothing of a build of another host, whose lock may not be seen here.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(image))).hexdigest()[:16]
    directory = parent / f"oe-build-{os.geteuid()}-{_host()}-{name}"
    remove_tree(directory)
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        # It is somebody else's, who could also foretell the name.
        directory = Path(tempfile.mkdtemp(prefix=f"{directory.name}-", dir=parent))
    try:
        yield directory
    finally:
        remove_tree(directory)


def remove_tree(directory: Path) -> None:
    """Remove a directory of this user, also one with files of subordinate users, if possible."""
    if not directory.is_dir() or directory.is_symlink():
        return
    if directory.lstat().st_uid != os.geteuid():
        return
    shutil.rmtree(directory, onerror=_make_writable_and_retry)
    if directory.exists() and os.geteuid() != 0 and shutil.which("unshare"):
        command = ["unshare", "--map-auto", "--map-root-user", "rm", "-rf", "--", str(directory)]
        subprocess.run(command, capture_output=True, check=False)


def _make_writable_and_retry(function: Callable[..., object], path: str, _: object) -> None:
    with contextlib.suppress(OSError):
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            function(path)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
