"""The signals that tell a process to stop, and how soon."""

from __future__ import annotations

import enum
import signal
import socket
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

# Slurm sends SIGUSR1 before the time limit. Slurm or a user sends SIGTERM, a closing terminal
# SIGHUP, and Ctrl-C SIGINT.
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Ctrl-C may reach a process several times, through its process group and its parent. Only a SIGINT
# that comes later than this many seconds after the first signal is a second Ctrl-C.
_SAME_SIGNAL_S = 0.5


def catch_signals(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]
) -> dict[signal.Signals, Any]:
    """Have signals handled, and return their handlers of before.

    Those that are ignored, as `nohup` does it, stay so: a handler would make them deadly for
    commands that this process starts.
    """
    caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in caught}


class StopOrder(enum.IntEnum):
    """How soon a process has to stop; a later member is more urgent."""

    NONE = 0
    # Before the time limit of the job.
    BEFORE_LIMIT = 1
    # Within seconds.
    SOON = 2
    # Without finishing anything.
    NOW = 3


class StopSignals:
    """A context that notes these signals; `fileno` becomes readable when one arrives.

    Attributes:
        first: The first signal; None if there was none.
        order: The most urgent order so far.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.order = StopOrder.NONE
        self._first_at = 0.0
        self._is_ignored = False
        self._ours, self._theirs = socket.socketpair()

    def __enter__(self) -> StopSignals:
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        # `nohup` has SIGHUP ignored. SIGINT is, too, in what a script starts with `&`, but the
        # script passes it on.
        is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        caught = [number for number in _SIGNALS if number != signal.SIGHUP or not is_nohup]
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # Ignore repeated signals: they would change the exit status.
            is_ignored = self._is_ignored or self.first is not None
            signal.signal(number, signal.SIG_IGN if is_ignored else handler)
        signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._theirs.close()

    def ignore(self) -> None:
        """Ignore these signals from now on: the work is done, and its exit status must stay."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self._is_ignored = True

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when a signal arrives."""
        return self._ours.fileno()

    def drain(self) -> None:
        """Make `fileno` unreadable until the next signal."""
        try:
            while self._ours.recv(64):
                pass
        except BlockingIOError:
            pass

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        order = StopOrder.BEFORE_LIMIT if number == signal.SIGUSR1 else StopOrder.SOON
        if self.first is None:
            self.first, self._first_at = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._first_at > _SAME_SIGNAL_S:
            order = StopOrder.NOW
        self.order = max(self.order, order)
