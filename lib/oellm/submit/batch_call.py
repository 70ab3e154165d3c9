"""The arguments with which a batch script runs: the script itself does not say where its run is.

So a run directory that was moved or copied continues in its own place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from pathlib import Path

from oellm.core.regular_files import read_regular
from oellm.errors import InputError
from oellm.runs.run_directory import LOGS, RUN, WORKER, Run

# What scripts of earlier versions have instead of a second argument; and how the others take it.
_FIXED_PLACE = re.compile(r"^run_dir=(.+)$", re.MULTILINE)
_GIVEN_PLACE = re.compile(r"^run_dir=\$\{(2:-|oellm_arguments\[1\]\})", re.MULTILINE)


def script_arguments(run: Run, offset: int) -> list[str]:
    """Return a script's arguments: the element of array index 0, the run, the worker's digest."""
    return [str(offset), str(run.path), _recorded_digest(run)]


def log_option(run: Run) -> list[str]:
    """Return the option of sbatch that puts logs into the run; none if a setting says otherwise."""
    if {"output", "o"} & set(run.setting("sbatch") or {}):
        return []
    # Slurm replaces %-patterns in file names.
    logs = str(run.path / LOGS).replace("%", "%%")
    return [f"--output={logs}/%A_%a.log"]


def require_sound(run: Run) -> None:
    """Raise InputError for a run whose worker was changed, or that another user could have written.

    Raises it also if the run's scripts would run elsewhere.
    """
    for path in (run.path, run.path / RUN, run.path / WORKER):
        _require_own(path)
    again = f"oe-missing {shlex.quote(str(run.path))} | oe-render | oe-submit"
    worker = run.path / WORKER
    found = hashlib.sha256(_read(worker)).hexdigest()
    if (expected := _recorded_digest(run)) and found != expected:
        raise InputError(
            f"it was changed since oe-render: its SHA-256 is {found[:16]}…, expected "
            f"{expected[:16]}…; to evaluate the rest with a new worker: {again}",
            str(worker),
        )
    for array in run.arrays:
        script = run.path / array.script
        _require_own(script)
        place = _fixed_place(_read(script).decode("utf-8", "surrogateescape"))
        if place and not _is_same(place, run.path):
            raise InputError(
                f"the run was moved or copied from {place}, where its script would continue it; "
                f"to evaluate the rest here: {again}",
                str(script),
            )


def _fixed_place(script: str) -> str:
    """Return the run directory that a script names; empty if it takes that as an argument."""
    if _GIVEN_PLACE.search(script):
        return ""
    for text in _FIXED_PLACE.findall(script):
        # A setup line may look similar, and need not be what Python takes for shell.
        with contextlib.suppress(ValueError):
            words = shlex.split(text)
            if len(words) == 1 and text in (shlex.quote(words[0]), f"'{words[0]}'"):
                return words[0]
    return ""


def _recorded_digest(run: Run) -> str:
    worker = run.content.get("worker")
    return str(worker.get("sha256") or "") if isinstance(worker, dict) else ""


def _require_own(path: Path) -> None:
    """Raise InputError if a file whose content we run belongs to another user, unless that is root.

    It may take the place of ours in a directory that we share with that user.
    """
    try:
        owner = path.stat().st_uid
    except OSError as error:
        raise InputError(str(error.strerror), str(path)) from None
    if owner not in (os.geteuid(), 0):
        raise InputError(
            f"it belongs to the user {owner}, whose code would run as you: to continue the run, "
            "copy its directory and submit the copy",
            str(path),
        )


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(str(error.strerror or error), str(path)) from None


def _is_same(place: str, path: Path) -> bool:
    try:
        return os.path.samefile(place, path)
    except OSError:
        return False
