"""A cache of what is costly to make and the same for every test, kept between runs.

Each entry lies below ~/.cache/oellm-tests. Its name has a digest of whatever it is made from. One
process makes an entry, and others that want it wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oellm-tests"


def digest(parts: Iterable[bytes]) -> str:
    """Return 16 hexadecimal digits that differ if any part differs."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def cached_directory(name: str, make: Callable[[Path], None]) -> Path:
    """Return a directory of the cache, which `make` fills if it does not exist yet."""
    target = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            staged = CACHE / f".{name}.new"
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir()
            make(staged)
            staged.rename(target)
    return target
