"""How far the model is with a row: one line on a terminal, or one line a minute in a log."""

from __future__ import annotations

import time

from oellm.core.display import format_duration
from oellm.core.log import Log

# Seconds between two lines in a log.
_LOG_EVERY = 60.0


class ScoringProgress:
    """Reports the progress of rows, to `status` if there is a terminal and otherwise to `log`.

    Attributes:
        done: Answered requests of the current row.
        total: All requests of the current row.
    """

    def __init__(self, log: Log, status: Log | None) -> None:
        self._log = log
        self._status = status
        self._label = ""
        self._reported = 0.0
        # When the model began with the current row, and its seconds for all rows before.
        self._began: float | None = None
        self._seconds = 0.0
        self._kept = 0
        self.done = self.total = 0

    @property
    def seconds(self) -> float:
        """The seconds in which the model answered, for all rows together."""
        return self._seconds + self._row_seconds()

    @property
    def rate(self) -> float | None:
        """Requests per second of the current row; None before the first batch."""
        if self.done <= self._kept:
            return None
        return (self.done - self._kept) / max(1e-3, self._row_seconds())

    def begin(self, label: str) -> None:
        """Note that the model begins to answer a row."""
        self._label = label
        self._began = self._reported = time.monotonic()
        self.done = self.total = self._kept = 0

    def note(self, done: int, total: int, kept: int) -> None:
        """Note the numbers of requests: answered, in total, and answered by earlier attempts."""
        self.done, self.total, self._kept = done, total, kept
        now = time.monotonic()
        if self._status is None and now - self._reported < _LOG_EVERY:
            return
        self._reported = now
        text = f"{self._label}: {done} of {total} requests"
        if rate := self.rate:
            text += f", {rate:.3g}/s, {format_duration((total - done) / rate)} left"
        (self._status or self._log)(text)

    def end(self) -> None:
        """Note that the model has answered the row."""
        self._seconds, self._began = self.seconds, None
        if self._status is not None:
            self._status("")

    def _row_seconds(self) -> float:
        return time.monotonic() - self._began if self._began is not None else 0.0
