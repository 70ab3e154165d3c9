"""The progress of downloads: a status line on a terminal, or a line every 30 s in a log."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from oellm.core.display import format_duration, format_size
from oellm.core.log import Log
from oellm.hub.cache import CachedCommit, HubFile

# Seconds between two looks at the cache, on a terminal and without one.
_ON_TERMINAL_S = 0.5
_IN_LOG_S = 30.0


class Target(NamedTuple):
    """Files of a model that are being downloaded."""

    cached: CachedCommit
    files: list[HubFile]


class Progress:
    """A context in which downloads run, with a thread that looks at their files.

    It looks at files rather than at calls of the hub's library, so that it sees each way of
    downloading alike. `status` shows a line on the terminal, which the next one replaces. Without
    `status`, the same line is logged every 30 s.
    """

    def __init__(self, targets: list[Target], log: Log, status: Log | None) -> None:
        self._targets = targets
        self._total = sum(file.size or 0 for target in targets for file in target.files)
        self._log = log
        self._status = status
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self._total:
            self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        if self._total:
            self._thread.join()
        if self._status:
            self._status("")

    def _watch(self) -> None:
        tell, interval = self._log, _IN_LOG_S
        if self._status:
            tell, interval = self._status, _ON_TERMINAL_S
        started, before = time.monotonic(), self._count_bytes()
        while not self._done.wait(interval):
            done = self._count_bytes()
            rate = (done - before) / (time.monotonic() - started)
            tell(self._describe(done, rate))

    def _count_bytes(self) -> int:
        return sum(target.cached.count_bytes(target.files) for target in self._targets)

    def _describe(self, done: int, rate: float) -> str:
        percent_done = 100 * done // self._total
        # Below one percent the rate is not reliable yet.
        is_known = rate > 0 and percent_done >= 1
        left = f", {format_duration((self._total - done) / rate)} left" if is_known else ""
        return (
            f"downloading: {percent_done} %, {format_size(done)} of {format_size(self._total)},"
            f" {format_size(rate)}/s{left}"
        )
