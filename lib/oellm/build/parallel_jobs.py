"""Several images are made at once, each in a process that ends with this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait

from oellm.build.image_builder import last_lines
from oellm.build.image_jobs import Begun, ImageJob, NotLocked, Waiting
from oellm.build.outcomes import ImageOutcome, ImageStatus
from oellm.core.display import format_duration, format_size
from oellm.core.log import Log
from oellm.core.processes.process_trees import ProcessTree
from oellm.core.processes.stop_signals import StopOrder, StopSignals
from oellm.images.image_record import log_path

# Seconds between two looks at the logs, for the line that shows the progress.
_LOOK_S = 0.5
# Seconds that jobs have to end in their own way.
_GRACE_S = 15.0
# Lines of a log that are shown if a build fails.
_SHOWN_LINES = 8


class _RunningJob:
    """A job in its process."""

    def __init__(self, job: ImageJob) -> None:
        self.maker = job.maker
        self.started = time.monotonic()
        self.has_begun = False
        self.outcome: ImageOutcome | None = None
        self.messages, theirs = multiprocessing.Pipe(duplex=False)
        # Until the job has its log, its messages are ours.
        output = os.dup(2)
        self.tree = ProcessTree(lambda: job.run(theirs), output)
        theirs.close()
        os.close(output)

    def receive(self) -> Iterator[object]:
        """Yield the messages that have come."""
        with contextlib.suppress(EOFError, ConnectionError):
            while self.messages.poll():
                yield self.messages.recv()

    def finish(self) -> ImageOutcome:
        """Return the outcome of a job that has ended."""
        status = self.tree.wait()
        self.messages.close()
        if self.outcome:
            return self.outcome
        reason = f"its process ended with status {status}"
        return ImageOutcome(self.maker.name, self.maker.path, ImageStatus.FAILED, reason=reason)


class ParallelJobs:
    """Runs jobs, `at_once` at a time, and shows how far they are.

    `log` gets messages; `status`, if there is a terminal, gets a line of progress.
    """

    def __init__(self, at_once: int, log: Log, status: Log | None) -> None:
        self._at_once = at_once
        self._log = log
        self._status = status
        self._running: list[_RunningJob] = []
        self._done = 0
        self._all = 0

    def run(self, jobs: Iterable[ImageJob]) -> Iterator[ImageOutcome]:
        """Yield the outcome of each job as it ends.

        A signal to stop ends all of them, and then raises KeyboardInterrupt.
        """
        waiting = deque(jobs)
        self._all = len(waiting)
        with StopSignals() as stop:
            try:
                while waiting or self._running:
                    while waiting and len(self._running) < self._at_once:
                        self._running.append(_RunningJob(waiting.popleft()))
                    self._wait(stop)
                    if stop.first is not None:
                        self._end_all(stop)
                        raise KeyboardInterrupt
                    yield from self._ended()
            finally:
                self._show("")
                for each in self._running:
                    each.tree.kill()

    def _wait(self, stop: StopSignals) -> None:
        sources = [
            connection
            for each in self._running
            for connection in (each.tree.connection, each.messages)
        ]
        wait([stop.fileno(), *sources], _LOOK_S if self._status else None)
        for each in self._running:
            for message in each.receive():
                self._take(each, message)
        self._show_progress()

    def _take(self, each: _RunningJob, message: object) -> None:
        name = each.maker.name
        if isinstance(message, Begun):
            each.has_begun = True
            self._log(f"{name}: {message.reason}; log: {log_path(each.maker.path)}")
        elif isinstance(message, Waiting):
            self._log(f"{name}: another process makes it; waiting")
        elif isinstance(message, NotLocked):
            place = each.maker.path.parent
            self._log(f"{name}: {place} has no file locks: start no other oe-build")
        elif isinstance(message, ImageOutcome):
            each.outcome = message

    def _ended(self) -> Iterator[ImageOutcome]:
        ended = [each for each in self._running if each.tree.connection.poll()]
        for each in ended:
            for message in each.receive():
                self._take(each, message)
            self._running.remove(each)
            outcome = each.finish()
            self._done += 1
            self._tell(outcome, has_begun=each.has_begun)
            yield outcome

    def _tell(self, outcome: ImageOutcome, has_begun: bool) -> None:
        if outcome.status == ImageStatus.FAILED:
            self._log(f"{outcome.name}: {outcome.reason}")
            if has_begun:
                with contextlib.suppress(OSError):
                    for line in last_lines(log_path(outcome.path), _SHOWN_LINES):
                        self._log(f"{outcome.name}: | {line}")
        elif outcome.status == ImageStatus.UP_TO_DATE:
            self._log(f"{outcome.name}: up to date")
        elif outcome.record:
            size = format_size(outcome.record.size)
            taken = format_duration(outcome.seconds or 0)
            self._log(f"{outcome.name}: {outcome.status} in {taken}, {size}")

    def _end_all(self, stop: StopSignals) -> None:
        """End all jobs: in their own way first, and at once if the user is impatient."""
        self._show("stopping")
        for each in self._running:
            each.tree.terminate()
        deadline = time.monotonic() + _GRACE_S
        remaining = list(self._running)
        while remaining and stop.order < StopOrder.NOW and time.monotonic() < deadline:
            stop.drain()
            wait([stop.fileno(), *(each.tree.connection for each in remaining)], 1)
            remaining = [each for each in remaining if not each.tree.connection.poll()]

    def _show_progress(self) -> None:
        if not self._status or not self._running:
            return
        each = self._running[0]
        taken = format_duration(time.monotonic() - each.started)
        more = f" and {len(self._running) - 1} more" if len(self._running) > 1 else ""
        line = ""
        if each.has_begun:
            with contextlib.suppress(OSError):
                line = next(iter(last_lines(log_path(each.maker.path), 1)), "")
        count = f"{self._done} of {self._all} images" if self._all > 1 else ""
        parts = (count, f"{each.maker.name}{more}", taken, line)
        self._show(", ".join(part for part in parts if part))

    def _show(self, text: str) -> None:
        if self._status:
            self._status(text)
