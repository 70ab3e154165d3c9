"""Directories for models, images and results that login and compute nodes may share."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from oellm.core.display import format_size

# Variables by which sites name a user's file systems, the most lasting one first: what lies on
# scratch is removed after some weeks.
_KINDS = ("WORK", "PROJECT", "SCRATCH", "FLASH", "FAST")
_VARIABLE = re.compile(rf"({'|'.join(_KINDS)})(DIR|_\w+)?")
# Where such file systems usually are, with a directory for each user or project.
_MOUNTS = (
    *("/work", "/project", "/projects", "/scratch", "/flash", "/lustre", "/gpfs", "/beegfs"),
    *("/lustre/work", "/lustre/scratch", "/gpfs/work", "/gpfs/scratch", "/data", "/p/scratch"),
)
_LOCAL_TYPES = frozenset(
    ("tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "rootfs")
)
_PATIENCE_S = 5.0
# Less is not enough for a model of 8 billion parameters and its results.
_LEAST_ROOM = 50 * 10**9
# Braces would refer to another setting.
_UNUSABLE = re.compile(r"[{}\x00-\x1f\x7f]")


class Storage(NamedTuple):
    """A directory in which the user may write.

    Attributes:
        path: The directory.
        origin: The variable that names it, or how it was found.
        kind: The type of its file system; empty if unknown.
        free: Bytes that are free, whatever the user's quota.
    """

    path: str
    origin: str
    kind: str
    free: int

    @property
    def is_local(self) -> bool:
        """Return whether other nodes are unlikely to see it."""
        return self.kind in _LOCAL_TYPES

    def __str__(self) -> str:
        doubt = ", which other nodes may not see" if self.is_local else ""
        return f"{self.origin}: {self.kind or 'file system'}{doubt}, {format_size(self.free)} free"


def find_storage(environ: Mapping[str, str], names: Iterable[str]) -> list[Storage]:
    """Return the directories in which the user may write, the best one first, the home last.

    `names` are those of the user and of the user's groups. A file system that does not answer
    within seconds is left out.
    """
    named = {
        environ[name]: f"${name}"
        for kind in _KINDS
        for name in sorted(environ)
        if (match := _VARIABLE.fullmatch(name)) and match[1] == kind
    }
    usual = [f"{mount}/{name}" for mount in _MOUNTS for name in names]
    home = os.path.expanduser("~")
    wanted = {**named, **{path: "found" for path in usual if path not in named}}
    found = [_Look(path, origin) for path, origin in wanted.items() if path != home]
    look_at_home = _Look(home, "your home directory, whose quota may be small")
    deadline = time.monotonic() + _PATIENCE_S
    places = [place for look in found if (place := look.result(deadline))]
    places.sort(key=lambda place: (place.is_local, place.free < _LEAST_ROOM))
    at_home = look_at_home.result(deadline)
    return [*places, *([at_home] if at_home else [])]


class _Look:
    """A look at a directory in a thread of its own: a dead mount would hold up everything."""

    def __init__(self, path: str, origin: str) -> None:
        self._place: Storage | None = None
        self._thread = threading.Thread(target=self._look, args=(path, origin), daemon=True)
        self._thread.start()

    def result(self, deadline: float) -> Storage | None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._place

    def _look(self, path: str, origin: str) -> None:
        if not os.path.isabs(path) or _UNUSABLE.search(path):
            return
        if os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            usage = os.statvfs(path)
            free = usage.f_bavail * usage.f_frsize
            self._place = Storage(path, origin, kind=file_system_type(path), free=free)


def file_system_type(path: str) -> str:
    """Return the type of the file system of a path, such as `lustre`; empty if unknown."""
    real = os.path.realpath(path)
    best = ("", "")
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as stream:
            mounts = [line.split(" ")[1:3] for line in stream]
    except OSError:
        return ""
    for mount, kind in mounts:
        # The file writes blanks and the like as octal numbers.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount)
        is_below = real == point or real.startswith(point.rstrip("/") + "/")
        if is_below and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
