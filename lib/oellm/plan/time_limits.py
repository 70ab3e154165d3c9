"""The time limit of a job, from the seconds that its longest shard should take."""

from __future__ import annotations

import math

from oellm.clusters.cluster import Cluster
from oellm.slurm.notation import clamp_stop_before, parse_time_limit

# A shard that takes twice its estimate still fits.
_MARGIN = 2.0
# Further seconds, for a slow start and for busy file systems.
_SPARE = 600
# Limits are multiples of this, in seconds.
_STEP = 300


def limit_time(longest_s: float, stop_before: int, ceiling_s: int | None) -> int | None:
    """Return the time limit, in seconds, of a job whose longest worker should take `longest_s`.

    A job is told to stop `stop_before` seconds before its limit. The limit is never above the
    ceiling; None means no limit.
    """
    wanted = longest_s * _MARGIN + _SPARE + stop_before
    if not math.isfinite(wanted):
        return ceiling_s
    # A job that is told to stop when it starts would only requeue itself.
    wanted = _STEP * math.ceil(max(wanted, 2 * stop_before) / _STEP)
    return int(wanted) if ceiling_s is None else min(int(wanted), ceiling_s)


def with_stop_before_clamped(cluster: Cluster) -> Cluster:
    """Return the cluster with a stop_before of at most half of its time_limit."""
    wanted = cluster.number("stop_before")
    seconds = clamp_stop_before(wanted, parse_time_limit(cluster.text("time_limit")))
    if seconds == wanted:
        return cluster
    return Cluster(
        settings={**cluster.settings, "stop_before": seconds},
        origins={**cluster.origins, "stop_before": "half of time_limit"},
    )
