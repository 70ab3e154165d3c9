"""When a worker that has received a signal must have ended."""

from __future__ import annotations

import time

from oellm.core.processes.stop_signals import StopOrder, StopSignals

# Seconds for the model to finish its batch and for rows to write their results after a signal.
# Slurm usually waits 30 s between SIGTERM and SIGKILL.
TIME_TO_STOP = 20.0


class Stopper:
    """Turns stop signals into a deadline.

    `notice_s` is the time to stop before the time limit of the job; after a more urgent signal it
    is TIME_TO_STOP.

    Attributes:
        deadline: The deadline, of time.monotonic; None before the first signal.
    """

    def __init__(self, signals: StopSignals, notice_s: float) -> None:
        self._signals = signals
        self._notice_s = notice_s
        self._is_soon = False
        self.deadline: float | None = None

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when a signal arrives."""
        return self._signals.fileno()

    def drain(self) -> None:
        """Make `fileno` unreadable until the next signal."""
        self._signals.drain()

    def update(self) -> bool:
        """Set or shorten the deadline; return True if the first signal has just been seen."""
        if self._signals.order == StopOrder.NONE:
            return False
        is_first = self.deadline is None
        now = time.monotonic()
        if self.deadline is None:
            self.deadline = now + self._notice_s
        if self._signals.order >= StopOrder.SOON and not self._is_soon:
            self._is_soon = True
            self.deadline = min(self.deadline, now + TIME_TO_STOP)
        return is_first

    def halt(self) -> None:
        """Set or shorten the deadline, although there was no signal."""
        soon = time.monotonic() + TIME_TO_STOP
        self.deadline = soon if self.deadline is None else min(self.deadline, soon)

    def must_end(self) -> bool:
        """Return whether the worker must end now, finished or not."""
        is_late = self.deadline is not None and time.monotonic() > self.deadline
        return is_late or self._signals.order == StopOrder.NOW

    def describe(self) -> str:
        """Return which signal stopped the worker; `finished` if none did."""
        return f"stopped by {self._signals.first.name}" if self._signals.first else "finished"
