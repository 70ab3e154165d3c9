"""How far the model is with a row: a line on a terminal, or now and then one in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

from oellm.core.display import format_duration

# Seconds between two lines in a log.
_LOG_EVERY = 60.0


class ScoringProgress:
    """Tells how far rows are; `status` shows a line on the terminal, where there is one."""

    def __init__(self, report: Callable[[str], None], status: Callable[[str], None] | None) -> None:
        self._report = report
        self._status = status
        self._label = ""
        self._told = 0.0
        # When the model began with the row that it answers, and the seconds of those before.
        self._began: float | None = None
        self._seconds = 0.0
        self._kept = 0
        # Requests of that row.
        self.done = self.total = 0

    @property
    def seconds(self) -> float:
        """The seconds in which the model has answered, all rows together."""
        return self._seconds + self._row_seconds()

    @property
    def rate(self) -> float | None:
        """Requests a second of the row that the model answers; None before the first batch."""
        if self.done <= self._kept:
            return None
        return (self.done - self._kept) / max(1e-3, self._row_seconds())

    def begin(self, label: str) -> None:
        """Note that the model begins to answer a row."""
        self._label = label
        self._began = self._told = time.monotonic()
        self.done = self.total = self._kept = 0

    def note(self, done: int, total: int, kept: int) -> None:
        """Note that so many requests are answered; `kept` of them were before the row began."""
        self.done, self.total, self._kept = done, total, kept
        now = time.monotonic()
        if self._status is None and now - self._told < _LOG_EVERY:
            return
        self._told = now
        text = f"{self._label}: {done} of {total} requests"
        if rate := self.rate:
            text += f", {rate:.3g}/s, {format_duration((total - done) / rate)} left"
        (self._status or self._report)(text)

    def end(self) -> None:
        """Note that the model has answered."""
        self._seconds, self._began = self.seconds, None
        if self._status is not None:
            self._status("")

    def _row_seconds(self) -> float:
        return time.monotonic() - self._began if self._began is not None else 0.0
