"""The signals that tell the worker to stop."""

from __future__ import annotations

import signal
import socket
import time
from types import FrameType

# From Slurm before the time limit, from Slurm or a user, from a terminal that closes, by Ctrl-C.
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class StopSignals:
    """A context in which these signals are noted; `fileno` is readable when one has come."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        # Somebody wants an end soon: not only the time limit comes near.
        self.is_pressing = False
        # Somebody wants an end now.
        self.is_urgent = False
        self._came_at = 0.0
        self._ours, self._theirs = socket.socketpair()

    def __enter__(self) -> StopSignals:
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # Who repeats a signal that is being followed would only spoil the exit status.
            signal.signal(number, handler if self.first is None else signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._theirs.close()

    def fileno(self) -> int:
        """Return what to wait for, besides other things."""
        return self._ours.fileno()

    def drain(self) -> None:
        """Make `fileno` unreadable again, until the next signal."""
        try:
            while self._ours.recv(64):
                pass
        except BlockingIOError:
            pass

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if number != signal.SIGUSR1:
            self.is_pressing = True
        # A second Ctrl-C means it; what comes at once is one signal that was sent to all processes.
        if self.first is not None and number == signal.SIGINT and now - self._came_at > 0.5:
            self.is_urgent = True
        if self.first is None:
            self.first = signal.Signals(number)
            self._came_at = now
