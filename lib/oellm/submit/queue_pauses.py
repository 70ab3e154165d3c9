"""When oe-submit --wait looks at the queue again: soon in a short run, or if workers have ended."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from oellm.runs.heartbeat import read_heartbeat
from oellm.runs.run_directory import Run
from oellm.submit.array_elements import Element, Placement, UnfinishedRows, shards_by_element

# Seconds until the first look at the queue, and between two looks at the heartbeats. A slow file
# system is looked at for a twentieth of the time.
_FIRST_S = 2.0
_LOOK_S = 1.0
_LOOKING = 20
# Looks at the queue come this much more slowly the longer jobs stay there after their workers.
_SLOWER = 1.5


class QueuePauses:
    """The pauses between looks at the queue, `longest_s` or a little more at most.

    A pause is a fifth of the time that has gone by. It ends early if the workers have ended: their
    jobs leave the queue within seconds.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._began = time.monotonic()
        # Looks at the queue that have found jobs whose workers had ended.
        self._in_vain = 0

    def wait_long(self) -> None:
        """Wait for the longest pause."""
        time.sleep(_scatter(self._longest_s))

    def wait(self, has_ended: Callable[[], bool]) -> None:
        """Wait until the queue should be looked at."""
        began = time.monotonic()
        pause_s = _scatter(min(self._longest_s, max(_FIRST_S, (began - self._began) / 5)))
        soon = began + (_LOOK_S * _SLOWER**self._in_vain if self._in_vain else 0.0)
        look_s = _LOOK_S
        while (left_s := began + pause_s - time.monotonic()) > 0:
            time.sleep(min(left_s, look_s))
            looked = time.monotonic()
            if not has_ended():
                self._in_vain = 0
            elif looked >= soon:
                self._in_vain += 1
                return
            look_s = max(_LOOK_S, _LOOKING * (time.monotonic() - looked))


def have_workers_ended(
    run: Run, rows: UnfinishedRows, awaited: Mapping[Element, Placement]
) -> bool:
    """Return whether the workers of all elements in the queue have written that they ended.

    As a rule this reads one heartbeat: that of the first worker that has not.
    """
    shards = shards_by_element(run)
    return bool(awaited) and all(
        _has_ended(run, shard, placement)
        for element, placement in awaited.items()
        for shard in shards[element]
        if rows.count_in_shard(shard)
    )


def _has_ended(run: Run, shard: int, placement: Placement) -> bool:
    beat = read_heartbeat(run.path, shard)
    if beat is None or not beat.state.ended:
        return False
    # An earlier job may have written it.
    return beat.attempt.job.partition("_")[0] == str(placement.job.job_id)


def _scatter(seconds: float) -> float:
    """Return a time near one; several oe-submit that began together should not ask together."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311
