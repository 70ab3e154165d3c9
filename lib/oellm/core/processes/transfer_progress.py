"""The progress of transfers: a status line on a terminal, or a line every 30 s in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from oellm.core.display import format_duration, format_size
from oellm.core.log import Log

# Seconds between two lines, on a terminal and without one.
_ON_TERMINAL_S = 0.5
_IN_LOG_S = 30.0


class TransferProgress:
    """A context in which something is transferred, with a thread that asks how far it is.

    `amount` returns the bytes that are done, and those of all (None or 0 if nobody knows). `status`
    shows a line on the terminal, which the next one replaces. Without `status`, the same line is
    logged every 30 s.
    """

    def __init__(
        self,
        name: str,
        amount: Callable[[], tuple[int, int | None]],
        log: Log,
        status: Log | None,
    ) -> None:
        self._name = name
        self._amount = amount
        self._log = log
        self._status = status
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._status:
            self._status("")

    def _watch(self) -> None:
        tell, interval = self._log, _IN_LOG_S
        if self._status:
            tell, interval = self._status, _ON_TERMINAL_S
        started, (before, _) = time.monotonic(), self._amount()
        while not self._ended.wait(interval):
            done, total = self._amount()
            # A transfer that begins again has less than before.
            rate = max(0, done - before) / (time.monotonic() - started)
            tell(self._describe(done, total, rate))

    def _describe(self, done: int, total: int | None, rate: float) -> str:
        if not total:
            return f"{self._name}: {format_size(done)}, {format_size(rate)}/s"
        percent_done = 100 * done // total
        # Below one percent the rate is not reliable yet.
        is_known = rate > 0 and percent_done >= 1
        left = f", {format_duration((total - done) / rate)} left" if is_known else ""
        return (
            f"{self._name}: {percent_done} %, {format_size(done)} of {format_size(total)},"
            f" {format_size(rate)}/s{left}"
        )
