"""How far the model is with a row: a line on a terminal, or now and then one in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds between two lines in a log.
_LOG_EVERY = 60.0


class ScoringProgress:
    """Tells how far rows are; `status` shows a line on the terminal, where there is one."""

    def __init__(self, report: Callable[[str], None], status: Callable[[str], None] | None) -> None:
        self._report = report
        self._status = status
        self._label = ""
        self._began = self._told = 0.0

    def begin(self, label: str) -> None:
        """Note that the model begins to answer a row."""
        self._label = label
        self._began = self._told = time.monotonic()

    def note(self, done: int, total: int, kept: int) -> None:
        """Note that so many requests are answered; `kept` of them were before the row began."""
        now = time.monotonic()
        if self._status is None and now - self._told < _LOG_EVERY:
            return
        self._told = now
        text = f"{self._label}: {done} of {total} requests"
        if done > kept:
            rate = (done - kept) / max(1e-3, now - self._began)
            minutes, seconds = divmod(int((total - done) / rate), 60)
            text += f", {rate:.3g}/s, {minutes} min {seconds} s left"
        (self._status or self._report)(text)

    def end(self) -> None:
        """Note that the model has answered."""
        if self._status is not None:
            self._status("")
