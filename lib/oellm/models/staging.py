"""Copies of models on a node's own disk, for all workers of the node.

One worker makes a copy, under a temporary name; the others wait for it. Each worker that uses a
copy holds a shared lock on a file beside it, which the kernel releases however the process ends. A
copy that nobody has locked is removed by the next worker that looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from oellm.core import json_codec
from oellm.core.display import format_size
from oellm.core.log import Log
from oellm.core.regular_files import append_regular
from oellm.errors import InputError
from oellm.hub import cache
from oellm.manifest.rows import Row
from oellm.models import local_models

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_LOCK = ".lock"
_UNFINISHED = ".tmp"
# Seconds after which a worker looks again, if another one holds the lock at the same moment.
_RETRY_S = 0.01


class Source(NamedTuple):
    """Where the files of a model are read.

    Attributes:
        path: The model's own path or name, or the directory of a copy.
        staged_s: Seconds of making the copy or waiting for it; None if the path is the model's own.
    """

    path: str
    staged_s: float | None = None


class NoDiskSpaceError(OSError):
    """The disk has no room for the model."""


def resolve_stage_dir(setting: str, environ: Mapping[str, str]) -> str:
    """Return the directory that the setting stage_dir names in this environment.

    Replaces `$NAME` and `${NAME}`, and nothing else. Raises InputError for a variable that is not
    set, and if the result is no absolute path.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not environ.get(name):
            raise InputError(f"{setting}: the variable {name} is not set here", column="stage_dir")
        return environ[name]

    path = _VARIABLE.sub(value, setting)
    if not os.path.isabs(path):
        raise InputError(f"expected an absolute path, got {path!r}", column="stage_dir")
    return path


class Stage:
    """The copies of this user's models below a directory of a node; uses one copy at a time."""

    def __init__(self, root: str, log: Log) -> None:
        # The user's number, because a user may have no name in a container.
        self._directory = Path(root) / f"oellm-{os.getuid()}"
        self._log = log
        self._lock: IO[bytes] | None = None

    def copy_model(self, row: Row) -> Source:
        """Copy a row's model, after releasing the previous one; return where to read it.

        If it cannot be copied, logs that and returns the model's own path.
        """
        self.release()
        started = time.perf_counter()
        try:
            place = self._staged(row)
        # The disk may fail, or the model; loading the model will tell its failure better.
        except OSError as error:
            self._log(f"{row.model.path}: not staged, loading it from its original place: {error}")
            return Source(row.model.path)
        return Source(place, time.perf_counter() - started)

    def release(self) -> None:
        """Release the copy in use, and remove the copies that nobody uses."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        with contextlib.suppress(OSError):
            for path in sorted(self._directory.glob(f"*{_LOCK}")):
                _remove_unused(path)

    def _staged(self, row: Row) -> str:
        original = find_directory(row)
        files = list(_files(row, original))
        content = json_codec.dumps([original, row["model_revision"], *files])
        digest = hashlib.sha256(content).hexdigest()[:32]
        self._prepare()
        place = self._directory / digest
        while True:
            lock = append_regular(place.with_name(digest + _LOCK))
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if _is_current(lock) and place.is_dir():
                    self._lock = lock
                    return str(place)
                # Never wait for this lock: it is given only when nobody uses the copy, and a worker
                # that has just made the copy uses it for hours.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_current(lock) and not place.is_dir():
                    self._copy(original, files, place)
            except BlockingIOError:
                time.sleep(_RETRY_S)
            finally:
                if self._lock is not lock:
                    lock.close()

    def _prepare(self) -> None:
        """Make the directory; raises OSError if it belongs to somebody else."""
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700, parents=True)
        status = self._directory.lstat()
        if self._directory.is_symlink() or status.st_uid != os.getuid():
            raise PermissionError(f"{self._directory} is not our own directory")

    def _copy(self, original: str, files: list[tuple[str, int, int, int]], place: Path) -> None:
        size, free = sum(file[1] for file in files), shutil.disk_usage(self._directory).free
        if size > free:
            raise NoDiskSpaceError(
                f"it has {format_size(size)}, "
                f"but {self._directory} has only {format_size(free)} free"
            )
        unfinished = place.with_name(place.name + _UNFINISHED)
        # A killed worker left it; we hold the lock.
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            for name, *_ in files:
                target = unfinished / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(os.path.join(original, name), target)
            unfinished.rename(place)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def find_directory(row: Row) -> str:
    """Return the directory of a row's model; raises OSError if there is none."""
    path = row.model.path
    if not row.model.is_local:
        revision = row["model_revision"] or str(row.model_arguments.get("revision", "main"))
        path = cache.find_snapshot(path, revision) or ""
    if not os.path.isdir(path):
        raise FileNotFoundError("it is not in the hub's cache")
    return os.path.abspath(path)


def _files(row: Row, original: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, bytes and times of change of each file that loading a model may read."""
    for name in local_models.list_read_files(row, original):
        status = os.stat(os.path.join(original, name))
        # A file that is replaced may get the times of another; that of its inode cannot be set.
        yield name, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remove_unused(lock: Path) -> None:
    """Remove a copy and the file by which it is locked, unless a process uses it."""
    with append_regular(lock) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if not _is_current(stream):
            return
        place = lock.with_suffix("")
        unfinished = place.with_name(place.name + _UNFINISHED)
        # Renamed first, so that a kill in the middle leaves no half of it under its name.
        shutil.rmtree(unfinished, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)
        lock.unlink()


def _is_current(lock: IO[bytes]) -> bool:
    """Return whether a locked file still has its name; it is removed together with its copy."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except FileNotFoundError:
        return False
