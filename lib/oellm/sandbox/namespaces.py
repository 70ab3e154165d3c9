"""System calls that Python has no functions for: namespaces, mounts, privileges.

This module uses the standard library alone: the guard (guard.py) takes it into containers, whose
Python may be as old as 3.9.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct

# Of <sched.h>.
MOUNTS, UTS, IPC, USERS, PIDS, NETWORK = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
# Of <sys/mount.h>.
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 0x1, 0x2, 0x4, 0x8
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
# Of <sys/prctl.h>.
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _DROP_FROM_BOUNDING_SET, _SET_SUBREAPER = 1, 4, 24, 36
_SET_NO_NEW_PRIVILEGES = 38
# Of <linux/capability.h>: the version of a structure of two times 32 bits.
_CAPABILITY_VERSION = 0x20080522
_MOST_CAPABILITIES = 64
# mount_setattr (Linux 5.12) has the same number on all architectures.
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203}
_DETACH = 0x2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
# Of <linux/sockios.h> and <linux/if.h>.
_SET_INTERFACE_FLAGS, _INTERFACE_UP = 0x8914, 0x1

# Of <sys/mman.h>: private, anonymous, at a fixed address.
_OWN_COPY = 0x2 | 0x20 | 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


def enter_namespaces(kinds: int) -> None:
    """Move this process into new namespaces. With USERS, its user keeps the same number there.

    Raises OSError.
    """
    user, group = os.geteuid(), os.getegid()
    _require(_libc.unshare(ctypes.c_int(kinds)), "unshare")
    if kinds & USERS:
        # A group may be mapped only if no process of the namespace can drop groups.
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if kinds & MOUNTS:
        # No mount of this namespace appears in another one.
        _require(_mount("none", "/", None, flags=_RECURSIVE | _PRIVATE), "mount --make-rprivate /")


def mount_tmpfs(path: str, *, size: int, files: int, devices: bool = False) -> None:
    """Mount an empty file system in memory: at most `size` bytes in `files` files. Raises OSError.

    It belongs to this process's user.
    """
    options = f"size={size},nr_inodes={files},mode=755"
    flags = NO_SUID | (0 if devices else NO_DEVICES)
    result = _mount("tmpfs", path, "tmpfs", flags=flags, options=options)
    _require(result, f"mount a tmpfs on {path}")


def mount_proc(path: str = "/proc") -> None:
    """Mount the processes of this process's namespace. Raises OSError."""
    result = _mount("proc", path, "proc", flags=NO_SUID | NO_DEVICES | NO_EXEC)
    _require(result, f"mount /proc on {path}")


def bind(source: str, target: str) -> None:
    """Show a file or directory, with all that is mounted below it, at another path, too."""
    _require(_mount(source, target, None, flags=_BIND | _RECURSIVE), f"bind {source} to {target}")


def make_read_only(path: str) -> bool:
    """Make all mounts at and below a path read-only; return whether this kernel can do that."""
    attributes = struct.pack("=Q24x", READ_ONLY)
    arguments = (_AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, attributes, len(attributes))
    result: int = _libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *arguments)
    return result == 0


def change_root(path: str) -> None:
    """Make a mount point the root of this process's own mount namespace, without the rest.

    Raises OSError.
    """
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"pivot_root: unknown on {os.uname().machine}")
    os.chdir(path)
    # The old root comes to lie over the new one, and is taken away there.
    _require(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    _require(_libc.umount2(b".", _DETACH), "umount the old root")
    os.chdir("/")


def start_loopback() -> None:
    """Make 127.0.0.1 reachable in this process's own network namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        request = struct.pack("16sH14x", b"lo", _INTERFACE_UP)
        fcntl.ioctl(anything.fileno(), _SET_INTERFACE_FLAGS, request)


def become_user(user: int, group: int) -> None:
    """Give up root for another user, for ever. Raises OSError."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    # Else /proc/self would belong to root, and this process could not map its user.
    _prctl(_SET_DUMPABLE, 1)


def forbid_privileges() -> None:
    """Make set-user-ID programs run without privileges, for this process and its children."""
    _require(_prctl(_SET_NO_NEW_PRIVILEGES, 1), "no_new_privs")


def drop_capabilities() -> None:
    """Drop all capabilities that a user namespace has given. Raises OSError."""
    for capability in range(_MOST_CAPABILITIES):
        # Fails for numbers that this kernel does not know.
        _prctl(_DROP_FROM_BOUNDING_SET, capability)
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    _require(_libc.capset(ctypes.byref(header), (ctypes.c_uint32 * 6)()), "capset")


def forget_shared_memory() -> None:
    """Replace memory that this process shares with others by copies of its own. Raises OSError.

    Memory of files is replaced, too: semaphores of multiprocessing are such files.
    """
    with open("/proc/self/maps") as file:
        lines = file.read().splitlines()
    for line in lines:
        addresses, permissions = line.split()[:2]
        if permissions.endswith("s") and permissions.startswith("r"):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            content = ctypes.string_at(begin, end - begin)
            arguments = (ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), 3, _OWN_COPY, -1, 0)
            _require(_libc.mmap(*arguments) == _MAP_FAILED, "mmap")
            ctypes.memmove(begin, content, end - begin)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def require_reader(pipe: int) -> None:
    """Raise OSError if the reading end of a pipe is closed: the process that had it has ended."""
    poll = select.poll()
    poll.register(pipe, select.POLLERR)
    if poll.poll(0):
        raise OSError("the parent has ended")


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose parents end."""
    _prctl(_SET_SUBREAPER, 1)


def _mount(source: str, target: str, kind: str | None, *, flags: int, options: str = "") -> int:
    arguments = (
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    result: int = _libc.mount(*arguments)
    return result


def _prctl(option: int, value: int) -> int:
    arguments = (option, ctypes.c_ulong(value), *3 * (ctypes.c_ulong(0),))
    result: int = _libc.prctl(*arguments)
    return result


def _require(result: int, action: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{action}: {os.strerror(number)}")
