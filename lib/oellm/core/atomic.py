"""Files that are either there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary name beside it, flushed to disk, then renamed."""
    write_file_with(path, lambda stream: stream.write(content))


def write_file_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Like write_file, with a function that writes the content to a binary stream."""
    staged = staging_path(path, new_attempt())
    stage(staged, write)
    try:
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def new_attempt() -> str:
    """Return a name for an attempt to write files, unlike that of any other attempt."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def staging_path(path: Path, attempt: str) -> Path:
    """Return where an attempt writes a file before it gets its name."""
    return path.with_name(f".{path.name}.{attempt}.tmp")


def stage(staged: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that has not got its name yet, flushed to disk; removed where that fails."""
    try:
        with open(staged, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
