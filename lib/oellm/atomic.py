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
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
