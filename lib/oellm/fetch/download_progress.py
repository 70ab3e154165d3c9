"""How far downloads are: a status line on a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from oellm.core.display import format_duration, format_size
from oellm.hub.cache import CachedCommit, HubFile

Report = Callable[[str], None]

# Seconds between two looks at the cache; a terminal shows each.
_ON_TERMINAL = 0.5
_IN_LOG = 30.0


class Target(NamedTuple):
    """Files of a model that are to come."""

    cached: CachedCommit
    files: list[HubFile]


class Progress:
    """A context in which downloads run, with a thread that looks at what has come.

    It looks at files rather than at calls of the hub's library, so that it sees all ways of
    downloading alike. `status` shows a line on the terminal that the next one replaces; without
    one, `report` tells the same every 30 s.
    """

    def __init__(self, targets: list[Target], report: Report, status: Report | None) -> None:
        self._targets = targets
        self._total = sum(file.size or 0 for target in targets for file in target.files)
        self._report = report
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
        tell, interval = self._report, _IN_LOG
        if self._status:
            tell, interval = self._status, _ON_TERMINAL
        started, before = time.monotonic(), self._come()
        while not self._done.wait(interval):
            come = self._come()
            rate = (come - before) / (time.monotonic() - started)
            tell(self._text(come, rate))

    def _come(self) -> int:
        return sum(target.cached.bytes_there(target.files) for target in self._targets)

    def _text(self, come: int, rate: float) -> str:
        percent_done = 100 * come // self._total
        # Before the first percent a rate says nothing yet.
        is_known = rate > 0 and percent_done >= 1
        left = f", {format_duration((self._total - come) / rate)} left" if is_known else ""
        return (
            f"downloading: {percent_done} %, {format_size(come)} of {format_size(self._total)},"
            f" {format_size(rate)}/s{left}"
        )
