"""The directory of a new run, and the name that a user may give the run."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path

from oellm.core.paths import make_directory, make_shared_directory
from oellm.errors import InputError, MachineError, UsageError

# The time at which the name of a directory begins, without an attempt's number.
STAMP_PATTERN = "[0-9]{4}(?:-[0-9]{2}){5}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def check_name(name: str) -> str:
    """Return the name of a run; raises UsageError if a directory or job cannot be called so."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name: expected 1 to 60 letters, digits, dots, hyphens and underscores, "
            f"beginning with a letter or digit, got {name!r}"
        )
    return name


def directory_name(stamp: str, name: str) -> str:
    """Return what the directory of a run is called; TIME-NAME if the run has a name."""
    return f"{stamp}-{name}" if name else stamp


def create_run_directory(
    output_dir: Path, user: str, explicit: str | None = None, *, name: str = ""
) -> Path:
    """Create a new run directory and return it.

    It is `explicit` if that is given (it must not exist, or be empty), else output_dir/user/TIME,
    or TIME-NAME; the TIME of a second run in the same second gets a suffix. Raises MachineError,
    with the option or setting that named it, if it cannot be made.
    """
    try:
        return _create_directory(output_dir, user, explicit, name=name)
    except OSError as error:
        origin = "--run_dir" if explicit else "the setting eval_output_dir"
        path = error.filename or explicit or output_dir
        raise MachineError(f"{origin}: {path} cannot be created: {error.strerror}") from None


def _create_directory(output_dir: Path, user: str, explicit: str | None, *, name: str) -> Path:
    if explicit:
        path = Path(os.path.abspath(explicit))
        _require_text(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError("the run directory exists already and is not empty", str(path))
        make_directory(path)
        return path
    parent = output_dir / user
    _require_text(parent)
    make_shared_directory(output_dir)
    make_directory(parent)
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
    attempt = 1
    while True:
        path = parent / directory_name(stamp if attempt == 1 else f"{stamp}-{attempt}", name)
        try:
            path.mkdir(mode=0o755)
            return path
        except FileExistsError:
            attempt += 1


def _require_text(path: Path) -> None:
    """Raise InputError for a path with bytes that JSON, such as run.json, cannot hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError("expected a run directory whose path is UTF-8", shown) from None
