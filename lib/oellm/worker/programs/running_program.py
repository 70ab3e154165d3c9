"""Waits for a program to end, for a signal, or for its time to be up."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait

from oellm.core.processes.process_trees import ProcessTree
from oellm.core.processes.stop_signals import StopOrder, StopSignals
from oellm.worker.job_script import JobScript
from oellm.worker.programs.program_output import ProgramOutput
from oellm.worker.stopper import Stopper
from oellm.worker.time_limit import RowLimit, Stopwatch

# Seconds that a program has after SIGTERM.
_GRACE_S = 8.0
# Seconds before the end of a job's time in which a program is told to end.
_BEFORE_LIMIT_S = 12.0


class StoppedProgramError(Exception):
    """A signal has stopped the worker, and with it the program."""


class OverdueProgramError(Exception):
    """The program took longer than its rows may take."""


class ProgramWatch:
    """Runs programs, one at a time, until the worker is told to stop.

    `beat` writes a heartbeat if one is due, `seconds_until_beat` says when the next one is.
    """

    def __init__(
        self,
        signals: StopSignals,
        notice_s: float,
        script: JobScript,
        *,
        beat: Callable[[], None],
        seconds_until_beat: Callable[[], float],
    ) -> None:
        self._signals = signals
        self.stopper = Stopper(signals, notice_s)
        self._script = script
        self._beat = beat
        self._seconds_until_beat = seconds_until_beat
        self._stopwatch = Stopwatch()
        # When the program was asked to end; None if it was not.
        self._asked_at: float | None = None

    def is_stopping(self) -> bool:
        """Return whether the worker was told to stop."""
        self.stopper.drain()
        self.stopper.update()
        if self._script.has_ended() and self._signals.order == StopOrder.NONE:
            os.kill(os.getpid(), signal.SIGTERM)
            self.stopper.update()
        return self.stopper.deadline is not None

    def run(self, action: Callable[[], int], limit: RowLimit) -> tuple[int, ProgramOutput]:
        """Run a program to its end; return its status, negative for a signal, and its output.

        Raises StoppedProgramError or OverdueProgramError if it was ended, with all that it started.
        """
        reader, writer = os.pipe()
        output = ProgramOutput(reader)
        try:
            tree = ProcessTree(action, writer)
        finally:
            os.close(writer)
        self._stopwatch.start(limit)
        self._asked_at = None
        try:
            while not self._has_ended(tree, output):
                self._stop_if_asked(tree)
                self._beat()
            status = tree.wait()
        except BaseException:
            tree.kill()
            raise
        finally:
            output.close()
        if self._asked_at is not None and status:
            raise StoppedProgramError
        return status, output

    def _has_ended(self, tree: ProcessTree, output: ProgramOutput) -> bool:
        """Wait for something to happen; return whether the program has ended."""
        ready = wait(
            [self.stopper.fileno(), tree.connection, output.fileno()], self._seconds_to_wait()
        )
        if output.fileno() in ready:
            if output.read():
                self._stopwatch.note_progress()
            else:
                # All processes have closed it, but the program may go on.
                ready = wait([self.stopper.fileno(), tree.connection], self._seconds_to_wait())
        return tree.connection in ready

    def _stop_if_asked(self, tree: ProcessTree) -> None:
        """End the program if the worker was told to stop, or if its time is up."""
        now = time.monotonic()
        if self.is_stopping():
            deadline = self.stopper.deadline or now
            is_soon = self._signals.order >= StopOrder.SOON
            if self._asked_at is None and (is_soon or now > deadline - _BEFORE_LIMIT_S):
                tree.terminate()
                self._asked_at = now
            is_late = self._asked_at is not None and now > self._asked_at + _GRACE_S
            if is_late or self.stopper.must_end():
                raise StoppedProgramError
        elif self._stopwatch.seconds_left <= 0:
            raise OverdueProgramError

    def _seconds_to_wait(self) -> float | None:
        """Return after how many seconds something is due at the latest; None for never."""
        now = time.monotonic()
        moments = [self._seconds_until_beat(), self._stopwatch.seconds_left]
        if (deadline := self.stopper.deadline) is not None:
            moments.append(deadline - now)
            moments.append(deadline - _BEFORE_LIMIT_S - now if self._asked_at is None else 0.1)
        soonest = max(0.05, min(moments))
        return soonest if math.isfinite(soonest) else None
