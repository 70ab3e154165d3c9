"""Counts consecutive time-outs without progress, to bound requeuing.

The file RUN_DIR/stops/SHARD holds the job's number and the count: `4711 2`.
"""

from __future__ import annotations

import os
from pathlib import Path

from oellm.core import atomic
from oellm.core.regular_files import STATE, RefusedFileError, read_regular
from oellm.runs.run_directory import STOPS


def count_timeout(run_dir: Path, shard: int, *, made_progress: bool, limit: int) -> bool:
    """Count a time-out of a job; return whether the job should be requeued.

    `made_progress` says whether the job, since it last started, finished a row or had a request
    answered. Without progress it may be requeued `limit` times in a row. A new submission starts a
    new count; outside of Slurm nothing is counted. Raises OSError if the count cannot be kept.
    """
    path = run_dir / STOPS / str(shard)
    if made_progress:
        path.unlink(missing_ok=True)
        return True
    # A job keeps its number when it is requeued.
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return True
    timeouts = _read_count(path, job) + 1
    path.parent.mkdir(exist_ok=True)
    atomic.write_file(path, f"{job} {timeouts}\n".encode())
    return timeouts <= limit


def _read_count(path: Path, job: str) -> int:
    """Return the time-outs of a job so far; the count of another job does not matter."""
    try:
        counted, timeouts = read_regular(path, STATE).decode().split()
        is_number = timeouts.isascii() and timeouts.isdecimal()
        return int(timeouts) if counted == job and is_number else 0
    except (FileNotFoundError, RefusedFileError, ValueError):
        return 0
