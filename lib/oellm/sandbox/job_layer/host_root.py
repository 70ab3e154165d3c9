"""A root directory of this machine's own files, for programs without a container.

Everything is there as on this machine, but read-only, and without homes, temporary files and the
sockets of services. Of these, the program sees what it is given.
"""

from __future__ import annotations

import contextlib
import os
import stat

from oellm.sandbox import namespaces
from oellm.sandbox.command import PLACES, REPLACED
from oellm.sandbox.job import BoxJob

ROOT = "root"
# The size of file systems that hold nothing but directories.
_BYTES, _FILES = 1 << 20, 1000


def build_root(job: BoxJob) -> None:
    """Show this machine's files in the box, and what the program is given. Raises OSError."""
    root = f"{job.box}/{ROOT}"
    os.mkdir(root)
    namespaces.mount_tmpfs(root, size=_BYTES, files=_FILES)
    own = {*PLACES, "/proc"}
    for name in os.listdir("/"):
        path, target = f"/{name}", f"{root}/{name}"
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        elif os.path.isdir(path):
            os.mkdir(target)
            if path not in {*own, *job.hidden}:
                # A file system that does not answer any more stays empty.
                with contextlib.suppress(OSError):
                    namespaces.bind(path, target)
    for path in job.hidden:
        # At the top, the directory has stayed empty.
        if path.count("/") > 1 and os.path.isdir(f"{root}{path}"):
            namespaces.mount_tmpfs(f"{root}{path}", size=_BYTES, files=_FILES)
    for path in (*own, *REPLACED):
        _make_directory(root, path)


def show(descriptor: int, root: str, path: str) -> None:
    """Bind what a descriptor refers to; what is already there stays. Raises OSError."""
    target = f"{root}{path}"
    if os.path.lexists(target):
        return
    _make_directory(root, os.path.dirname(path))
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.mkdir(target)
    else:
        with open(target, "x"):
            pass
    namespaces.bind(f"/proc/self/fd/{descriptor}", target)


def finish_root(job: BoxJob) -> None:
    """Make the root read-only, but for the program's own places. Raises OSError."""
    root = f"{job.box}/{ROOT}"
    if not namespaces.make_read_only(root):
        raise OSError("this kernel cannot make all mounts read-only (Linux 5.12 can)")
    for path, name in PLACES.items():
        namespaces.bind(f"{job.box}/{name}", f"{root}{path}")
    for path, name in REPLACED.items():
        namespaces.bind(f"{job.box}/scratch/{name}", f"{root}{path}")
    for source, target in job.moved:
        namespaces.bind(f"{job.box}/{source}", f"{root}{target}")
        namespaces.make_read_only(f"{root}{target}")


def enter_root(job: BoxJob) -> None:
    """Make the root that of this process, in a mount namespace of its own. Raises OSError."""
    root = f"{job.box}/{ROOT}"
    namespaces.enter_namespaces(namespaces.MOUNTS)
    # A mount of root's own namespace cannot become the root, but this one can.
    namespaces.bind(root, root)
    namespaces.change_root(root)


def _make_directory(root: str, path: str) -> None:
    """Make a directory and those above it, in the box alone. Raises OSError."""
    place = root
    for name in filter(None, path.split("/")):
        below = f"{place}/{name}"
        if not os.path.lexists(below):
            if not _is_tmpfs_of_box(place, root):
                text = f"{below.removeprefix(root)} cannot be shown without a container"
                raise OSError(f"{text}: {place.removeprefix(root)} is this machine's own")
            os.mkdir(below)
        place = below


def _is_tmpfs_of_box(path: str, root: str) -> bool:
    """Return whether a directory is not one of this machine's: what is made in it stays here."""
    machine = path.removeprefix(root) or "/"
    try:
        theirs = os.stat(machine)
    except OSError:
        return True
    ours = os.stat(path)
    return (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino)
