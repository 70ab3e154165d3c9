"""The box: a directory with all that a program in the sandbox needs, and its only writable places.

image           the container image
in/0, in/1, …   inputs
guard/          the guard's files
out/            the program's output, a file system in memory
scratch/        its other files, another one
state/          where the guard counts samples
home/           what the container runtime takes for the user's home
"""

from __future__ import annotations

import os
import stat

from oellm.sandbox import namespaces
from oellm.sandbox.command import DIRECTORIES, REPLACED
from oellm.sandbox.job import BoxJob
from oellm.sandbox.job_layer.host_root import ROOT, build_root, show

# Where programs look for the names of their user and group.
_NAMES = {"/etc/passwd": "sandbox:x:{0}:{1}::{2}/home:/bin/sh\n", "/etc/group": "sandbox:x:{1}:\n"}
# The size of the box without output and scratch, and directories besides those that are counted.
_OWN_BYTES, _OWN_FILES = 4 << 20, 2000
_FUSE = "/dev/fuse"
_EVERYBODY = 0o666
_WRITABLE = ("out", "scratch", "state", "home")


def build_box(job: BoxJob) -> None:
    """Make the box, without its writable places; raises OSError.

    In namespaces, it is in memory, and what it shows of this machine is bound.
    """
    # Opened before the box hides what is below its own path.
    opened = [(each, os.open(each.source, os.O_PATH | os.O_CLOEXEC)) for each in job.mapped]
    if job.namespaces:
        namespaces.mount_tmpfs(job.box, size=_OWN_BYTES, files=_OWN_FILES)
    for name in ("in", "guard", *_WRITABLE):
        os.mkdir(f"{job.box}/{name}")
    for name, text in job.files.items():
        with open(f"{job.box}/{name}", "x") as file:
            file.write(text)
    if job.bare and job.namespaces:
        build_root(job)
    for each, descriptor in opened:
        if each.name.startswith("/"):
            show(descriptor, f"{job.box}/{ROOT}", each.name)
        else:
            show(descriptor, job.box, f"/{each.name}")
        os.close(descriptor)


def build_writable_places(job: BoxJob) -> None:
    """Make what the program may write, as the program's user; raises OSError."""
    below = {*DIRECTORIES.values(), *REPLACED.values()}
    if job.namespaces:
        sizes = {
            "out": (job.output_bytes, job.output_files),
            "scratch": (job.output_bytes, job.output_files + len(below)),
            **dict.fromkeys(("state", "home"), (_OWN_BYTES, _OWN_FILES)),
        }
        for name in _WRITABLE:
            size, files = sizes[name]
            # The root of a file system is a file of it, too.
            namespaces.mount_tmpfs(f"{job.box}/{name}", size=size, files=files + 1)
    for name in below:
        os.mkdir(f"{job.box}/scratch/{name}")
    for name in job.mount_points:
        path = f"{job.box}/scratch/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not name.endswith("/"):
            with open(path, "a"):
                pass
    with open(f"{job.box}/state/samples", "x"):
        pass


def require_readable(job: BoxJob) -> None:
    """Raise OSError if the program's user may not read what the program is given."""
    for each in job.mapped:
        path = f"{job.box}/{ROOT}{each.name}" if each.name.startswith("/") else each.name
        if not os.access(os.path.join(job.box, path), os.R_OK):
            user = os.geteuid()
            raise OSError(f"{each.source}: user {user} may not read it; chmod -R o+rX helps")


def name_user(box: str, user: list[int]) -> None:
    """Give a user a name, for this mount namespace alone: container runtimes insist on one.

    Raises OSError.
    """
    for path, text in _NAMES.items():
        own = f"{box}/{os.path.basename(path)}"
        with open(own, "x") as file:
            file.write(text.format(*user, box))
        namespaces.bind(own, path)


def permit_fuse(box: str) -> None:
    """Let another user than root mount an image, for this mount namespace alone.

    Container runtimes open /dev/fuse, which everybody may use on most machines. Raises OSError.
    """
    try:
        status = os.stat(_FUSE)
    except FileNotFoundError:
        return
    if status.st_mode & _EVERYBODY == _EVERYBODY:
        return
    device = f"{box}/dev/fuse"
    os.mkdir(f"{box}/dev")
    namespaces.mount_tmpfs(f"{box}/dev", size=_OWN_BYTES, files=10, devices=True)
    os.mknod(device, stat.S_IFCHR | _EVERYBODY, status.st_rdev)
    os.chmod(device, _EVERYBODY)
    namespaces.bind(device, _FUSE)
