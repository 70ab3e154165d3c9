"""The time limit of a job, from what its longest shard should take."""

from __future__ import annotations

import math

# An estimate that is half of the truth still fits.
_MARGIN = 2.0
# Seconds on top: a slow start, and file systems that are busy.
_SPARE = 600
# Limits are whole multiples of so many seconds.
_STEP = 300


def time_limit(longest_s: float, stop_before: int, ceiling_s: int | None) -> int | None:
    """Return the time limit, in seconds, of a job whose longest worker should take `longest_s`.

    A job is told to stop `stop_before` seconds before its limit. Never more than the ceiling; None
    is no limit.
    """
    wanted = longest_s * _MARGIN + _SPARE + stop_before
    if not math.isfinite(wanted):
        return ceiling_s
    # One that is told to stop when it starts would do nothing else.
    wanted = _STEP * math.ceil(max(wanted, 2 * stop_before) / _STEP)
    return int(wanted) if ceiling_s is None else min(int(wanted), ceiling_s)


def notice(wanted: int | None, limit_s: int | None) -> int | None:
    """Return how many seconds before its time limit a job is told to stop: half of it at most."""
    return wanted if wanted is None or limit_s is None else min(wanted, limit_s // 2)
