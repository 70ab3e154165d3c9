"""Whether a directory can be written, has room, and locks files; and what time it has."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from oellm.core.display import format_size
from oellm.doctor.diagnoses import Diagnosis, found_doubtful, found_ok, found_wrong

# Free bytes and inodes: less is wrong, or doubtful.
_LEAST_BYTES, _FEW_BYTES = 10**8, 10**10
_LEAST_FILES, _FEW_FILES = 1000, 50_000
# Seconds by which clocks may differ.
_DIFFER_S, _WRONG_S = 5.0, 60.0
# Ends with 0 if it gets the lock, with 1 if another process has it.
_TRY_LOCK = """import fcntl, sys
stream = open(sys.argv[1], "r+b")
try:
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(1)
"""
_NO_LOCKS = "run one oe-fetch at a time: two may spoil each other's downloads"


def check_directory(key: str, path: str) -> Iterator[Diagnosis]:
    """Write into the directory of a setting, or into the one in which it will be made."""
    if not path:
        yield found_wrong(key, "it is not set", f"--set={key}=…, or eval_base_dir")
        return
    place = existing_part(path)
    shown = path if place == path else f"{path} does not exist yet; {place}"
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".oellm-doctor-") as stream:
            before = time.time()
            stream.write(b"oellm")
            stream.flush()
            os.fsync(stream.fileno())
            skew = before - os.stat(stream.name).st_mtime
            locks = try_locks(stream.name)
    except OSError as error:
        remedy = f"ask for permission or quota, or set another directory: --set={key}=…"
        yield found_wrong(key, f"{shown}: cannot be written: {error.strerror or error}", remedy)
        return
    yield _describe_room(key, place, shown)
    yield locks._replace(check=f"locks {key}")
    yield describe_clock(skew, f"clock {key}")


def existing_part(path: str) -> str:
    """Return the directory, or the lowest one above it that exists."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _describe_room(key: str, place: str, shown: str) -> Diagnosis:
    free = shutil.disk_usage(place).free
    system = os.statvfs(place)
    # Some file systems have no fixed number of files, and say 0.
    files = system.f_favail if system.f_files else _FEW_FILES
    text = f"{shown}: writable, {format_size(free)} free"
    if files < _FEW_FILES:
        text += f", room for {files} files"
    remedy = f"free some room, or set another directory: --set={key}=…"
    if free < _LEAST_BYTES or files < _LEAST_FILES:
        return found_wrong(key, text, remedy)
    if free < _FEW_BYTES or files < _FEW_FILES:
        return found_doubtful(key, text, remedy)
    return found_ok(key, text)


def try_locks(path: str) -> Diagnosis:
    """Return whether a lock of this process on a file keeps another process out."""
    with open(path, "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            return found_doubtful("locks", f"no file locks: {error.strerror}", _NO_LOCKS)
        second = _try_lock(path)
    if second == 0:
        return found_doubtful("locks", "two processes get the same file lock", _NO_LOCKS)
    if second != 1 or _try_lock(path) != 0:
        return found_doubtful("locks", "file locks fail", _NO_LOCKS)
    return found_ok("locks", "file locks work between processes")


def _try_lock(path: str) -> int:
    command = [sys.executable, "-c", _TRY_LOCK, path]
    return subprocess.run(command, capture_output=True, check=False).returncode


def try_lock_of_other_node(path: str, *, is_here: bool) -> Diagnosis:
    """Return whether a lock that another node has on a file keeps this process out.

    `is_here` says that the other node is this one after all.
    """
    between = "processes" if is_here else "nodes"
    try:
        with open(path, "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return found_ok("locks", f"file locks work between {between}")
    except OSError as error:
        return found_doubtful("locks", f"no file locks: {error.strerror}", _NO_LOCKS)
    return found_doubtful("locks", f"two {between} get the same file lock", _NO_LOCKS)


def measure_skew(directory: Path) -> float:
    """Return the seconds by which this machine's clock is ahead of a file system's."""
    with tempfile.NamedTemporaryFile(dir=directory) as stream:
        before = time.time()
        stream.write(b"oellm")
        stream.flush()
        return before - os.stat(stream.name).st_mtime


def describe_clock(skew: float, check: str, other: str = "the file system") -> Diagnosis:
    """Return what it means that this machine is `skew` seconds ahead of another clock."""
    if abs(skew) < _DIFFER_S:
        return found_ok(check, f"within {max(1, round(abs(skew)))} s of {other}")
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {other}"
    remedy = "tell the site: locks, heartbeats and Slurm's credentials depend on the clocks"
    make = found_wrong if abs(skew) >= _WRONG_S else found_doubtful
    return make(check, text, remedy)
