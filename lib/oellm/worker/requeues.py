"""Counts consecutive time-outs without progress, to bound requeuing.

The file RUN_DIR/stops/SHARD holds the job's number and the count: `4711 2`.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from oellm.core import atomic
from oellm.core.paths import make_directory
from oellm.core.regular_files import STATE, read_regular
from oellm.runs.run_directory import STOPS

# More time-outs than that no job has.
_NUMBER = re.compile("[0-9]{1,9}")


def count_timeout(run_dir: Path, shard: int, *, made_progress: bool, limit: int) -> bool:
    """Count a time-out of a job; return whether the job should be requeued.

    `made_progress` says whether the job, since it last started, finished a row or had a request
    answered. Without progress it may be requeued `limit` times in a row. A new submission starts a
    new count; outside of Slurm nothing is counted. If the count cannot be kept, Slurm's count of
    restarts stands for it; raises OSError if that is unknown, too.
    """
    path = run_dir / STOPS / str(shard)
    if made_progress:
        with contextlib.suppress(OSError):
            path.unlink()
        return True
    # A job keeps its number when it is requeued.
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return True
    timeouts = _read_count(path, job) + 1
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")
    if _NUMBER.fullmatch(restarts):
        # A damaged count must not end the job: it has timed out once for each restart at most.
        timeouts = min(timeouts, int(restarts) + 1)
    try:
        make_directory(path.parent, parents=False)
        atomic.write_file(path, f"{job} {timeouts}\n".encode())
    except OSError:
        if not _NUMBER.fullmatch(restarts):
            raise
        timeouts = int(restarts) + 1
    return timeouts <= limit


def _read_count(path: Path, job: str) -> int:
    """Return the time-outs of a job so far; the count of another job does not matter."""
    try:
        counted, timeouts = read_regular(path, STATE).decode().split()
    except (OSError, ValueError):
        return 0
    return int(timeouts) if counted == job and _NUMBER.fullmatch(timeouts) else 0
