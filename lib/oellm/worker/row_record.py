"""What is recorded of a row: how it ended, how long that took, where it was."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.core.display import utc_now
from oellm.manifest.rows import Row


class Failure(NamedTuple):
    """Why a row has no score; an error of another process, too."""

    kind: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return what an error says."""
        if isinstance(error, FailedElsewhereError):
            return error.failure
        text = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), text)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class FailedElsewhereError(Exception):
    """An error of another process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def record(
    row: Row, status: str, started: str, timing: Mapping[str, float], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a row (schema.json, table `result`), without metrics or failure."""
    return {
        "schema_version": schema.VERSION,
        "eval_id": row["eval_id"],
        "status": status,
        "row": {name: text for name, text in row.cells.items() if name != "shard"},
        "timing": {
            **{name: round(value, 6) for name, value in timing.items()},
            "started": started,
            "finished": utc_now(),
        },
        "provenance": dict(provenance),
    }


def failed(
    row: Row,
    failure: Failure,
    started: str,
    timing: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the failure file of a row."""
    described = {
        "class": failure.kind,
        "message": failure.message,
        "traceback": failure.traceback,
        "attempts": 1,
        "log": _log_file(),
    }
    return {"oellm": record(row, "failed", started, timing, provenance) | {"failure": described}}


def _log_file() -> str:
    """Return the file that stderr goes to, where it is a file: the log of the job."""
    try:
        path = os.readlink(f"/proc/self/fd/{sys.stderr.fileno()}")
    except (OSError, ValueError):
        return ""
    return path if os.path.isfile(path) else ""
