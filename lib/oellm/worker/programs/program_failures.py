"""Why a row has no score because of its program, or why its machine has none for it."""

from __future__ import annotations

from oellm.worker import time_limit
from oellm.worker.programs.attempts import ProgramFailedError
from oellm.worker.programs.running_program import OverdueProgramError
from oellm.worker.row_record import RowFailure

# What programs print if a disk takes nothing more.
_FULL = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def describe_failure(error: Exception, stage: str, limit_s: float) -> RowFailure:
    """Return the failure of the rows of a program; `stage` is empty if they have one stage."""
    if isinstance(error, OverdueProgramError):
        text = time_limit.describe_excess(limit_s, "and its program had not ended")
        return RowFailure("RowTimeout", text, stage=stage)
    if isinstance(error, ProgramFailedError):
        full = "" if error.is_contained else _find_full_disk(error.lines)
        printed = "\n".join(error.lines)
        return RowFailure("ProgramFailed", str(error), printed, full_disk=full, stage=stage)
    return RowFailure.from_error(error)._replace(stage=stage)


def _find_full_disk(lines: list[str]) -> str:
    """Return the last line that says that a disk is full; empty if none does."""
    found = [line.strip() for line in lines if any(text in line for text in _FULL)]
    return found[-1] if found else ""
