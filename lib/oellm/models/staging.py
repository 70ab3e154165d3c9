"""Copies of models on a node's own disk, for all workers of the node.

A copy is made once, below a temporary name; who needs it meanwhile waits. Whoever uses it has a
shared lock on a file beside it, which the kernel releases however the process ends, and a copy
that nobody has a lock on is removed by whoever looks next.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from oellm.core import json_codec
from oellm.errors import InputError
from oellm.hub import cache
from oellm.manifest.rows import Row
from oellm.models import local_models

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_LOCK = ".lock"
_UNFINISHED = ".tmp"


class Source(NamedTuple):
    """Where the files of a model are read: its own path or name, or the directory of a copy."""

    path: str
    # Seconds that copying took, or waiting for who did; None where the path is the model's own.
    staged_s: float | None = None


class NoRoomError(OSError):
    """The disk has no room for the model."""


def directory(setting: str, environ: Mapping[str, str]) -> str:
    """Return the directory that the setting stage_dir names in this environment.

    `$NAME` and `${NAME}` are replaced; nothing else has a meaning. Raises InputError for a variable
    that is not set, and for what is no absolute path.
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
    """The copies of this user's models below a directory of a node; one in use at a time."""

    def __init__(self, root: str, report: Callable[[str], None]) -> None:
        # By number: in a container a user may have no name.
        self._directory = Path(root) / f"oellm-{os.getuid()}"
        self._report = report
        self._lock: IO[bytes] | None = None

    def source(self, row: Row) -> Source:
        """Return where to read a row's model, after copying it; the one before is let go.

        Where it cannot be copied it is read where it is, and the user is told.
        """
        self.release()
        started = time.perf_counter()
        try:
            place = self._staged(row)
        # Whatever is wrong with the disk, or with the model, which loading it will say better.
        except OSError as error:
            self._report(
                f"{row.model.path}: not staged, loading it from its original place: {error}"
            )
            return Source(row.model.path)
        return Source(place, time.perf_counter() - started)

    def release(self) -> None:
        """Let the copy go that is in use, and remove those that nobody uses."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        with contextlib.suppress(OSError):
            for path in sorted(self._directory.glob(f"*{_LOCK}")):
                _remove_unused(path)

    def _staged(self, row: Row) -> str:
        original = _original(row)
        files = list(_files(row, original))
        content = json_codec.dumps([original, row["model_revision"], *files])
        digest = hashlib.sha256(content).hexdigest()[:32]
        self._prepare()
        place = self._directory / digest
        while True:
            lock = open(place.with_name(digest + _LOCK), "ab")  # noqa: SIM115
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if _is_current(lock) and place.is_dir():
                    self._lock = lock
                    return str(place)
                # Gives the shared lock up first; another worker may have it in between.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _is_current(lock) and not place.is_dir():
                    self._copy(original, files, place)
            finally:
                if self._lock is not lock:
                    lock.close()

    def _prepare(self) -> None:
        """Make the directory; raises OSError where it belongs to somebody else."""
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700, parents=True)
        status = self._directory.lstat()
        if self._directory.is_symlink() or status.st_uid != os.getuid():
            raise PermissionError(f"{self._directory} is not our own directory")

    def _copy(self, original: str, files: list[tuple[str, int, int]], place: Path) -> None:
        size, free = sum(file[1] for file in files), shutil.disk_usage(self._directory).free
        if size > free:
            raise NoRoomError(f"it has {size} bytes, but {self._directory} has only {free} free")
        unfinished = place.with_name(place.name + _UNFINISHED)
        # Of a worker that was killed; we have the lock.
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


def _original(row: Row) -> str:
    """Return the directory of a row's model; raises OSError where there is none."""
    path = row.model.path
    if not row.model.is_local:
        revision = row["model_revision"] or str(row.model_arguments.get("revision", "main"))
        path = cache.snapshot(path, revision)
    if not os.path.isdir(path):
        raise FileNotFoundError("it is not in the hub's cache")
    return os.path.abspath(path)


def _files(row: Row, original: str) -> Iterator[tuple[str, int, int]]:
    """Yield the name, size and time of change of each file that loading a model may read."""
    for name in local_models.read_files(row, original):
        status = os.stat(os.path.join(original, name))
        yield name, status.st_size, status.st_mtime_ns


def _remove_unused(lock: Path) -> None:
    """Remove a copy and the file by which it is locked, unless a process uses it."""
    with open(lock, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if not _is_current(stream):
            return
        place = lock.with_suffix("")
        unfinished = place.with_name(place.name + _UNFINISHED)
        # Who is killed while removing it leaves no half of it below its name.
        shutil.rmtree(unfinished, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)
        lock.unlink()


def _is_current(lock: IO[bytes]) -> bool:
    """Return whether a locked file is still the one of its name: it goes with its copy."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except FileNotFoundError:
        return False
