"""How often in a row a job ran out of time and had got nowhere, so that this comes to an end.

The file RUN_DIR/stops/SHARD holds the job's number and how often, `4711 2`.
"""

from __future__ import annotations

import os
from pathlib import Path

from oellm.core import atomic

STOPS = "stops"


def try_again(run_dir: Path, shard: int, progress: bool, limit: int) -> bool:
    """Count that a job has run out of time, and return whether it should be requeued.

    `progress` says whether the job, since it last started, finished a row or had a request
    answered; without that it may be requeued `limit` times in a row. Whoever submits it anew
    starts a new count, and outside of Slurm there is none. Raises OSError where the count cannot
    be kept.
    """
    path = run_dir / STOPS / str(shard)
    if progress:
        path.unlink(missing_ok=True)
        return True
    # A job keeps its number when it is requeued.
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return True
    stops = _stops(path, job) + 1
    path.parent.mkdir(exist_ok=True)
    atomic.write_file(path, f"{job} {stops}\n".encode())
    return stops <= limit


def _stops(path: Path, job: str) -> int:
    """Return the stops of a job so far; what another job left does not count."""
    try:
        counted, stops = path.read_text(encoding="utf-8").split()
        return int(stops) if counted == job else 0
    except (FileNotFoundError, ValueError):
        return 0
