"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name beside it, flushed to disk, then renamed."""
    write_file_with(path, lambda stream: stream.write(content))


def write_file_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Like write_file, but `write` writes the content to a binary stream."""
    staged = staging_path(path, new_attempt())
    with naming_file(path):
        stage(staged, write)
        try:
            os.replace(staged, path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Give errors the name of the file that is written: a failed write does not tell it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically without flushing it to disk: only a crash of the machine loses it."""
    staged = staging_path(path, new_attempt())
    try:
        with _create(staged) as stream:
            stream.write(content)
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes left beside a file, as far as possible."""
    with contextlib.suppress(OSError):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)


def new_attempt() -> str:
    """Return a unique name for an attempt to write files."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def staging_path(path: Path, attempt: str) -> Path:
    """Return the temporary path at which an attempt writes a file."""
    return path.with_name(f".{path.name}.{attempt}.tmp")


def _create(path: Path) -> BinaryIO:
    """Create a file that nobody else may write to, whatever the umask."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o644))


def create_text(path: Path) -> TextIO:
    """Create a text file that nobody else may write to; raises FileExistsError if there is one."""
    opener = lambda name, flags: os.open(name, flags, 0o644)  # noqa: E731
    return open(path, "x", encoding="utf-8", newline="", opener=opener)


def stage(staged: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under its temporary name and flush it to disk; remove it if that fails."""
    try:
        with naming_file(staged), _create(staged) as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
