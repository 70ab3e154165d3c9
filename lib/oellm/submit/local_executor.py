"""Runs array elements on this machine, as many at a time as it has room for."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from oellm.core import processes
from oellm.core.stop_signals import StopOrder, StopSignals
from oellm.errors import ExitStatus, MachineError
from oellm.runs.run_directory import LOGS, Run
from oellm.submit import array_elements, submission
from oellm.submit.array_elements import Element
from oellm.submit.local_gpus import LocalGpus

# The worker's messages begin with this; the log also has the framework's.
_WORKER_MESSAGE = "oe-run-task: "
# Seconds that elements have to stop in order: a worker takes 20 at most.
_GRACE_S = 30.0
# Seconds between two looks at what runs, and between two signs of life.
_LOOK_S = 0.2
_REFRESH_S = 60.0


class LocalExecutor:
    """Runs elements of one run, several at a time; their output goes to slurm_logs/.

    `report` gets the workers' messages; `refresh` is called each minute.
    """

    def __init__(
        self, run: Run, report: Callable[[str], None], refresh: Callable[[], None]
    ) -> None:
        self._run = run
        self._report = report
        self._refresh = refresh
        self._refreshed = time.monotonic()
        self._arrays = run.arrays
        self._shards = array_elements.shards_of(run)
        self._gpus = LocalGpus(os.environ)
        # With the GPUs that each has.
        self._running: dict[LocalElement, list[str]] = {}
        self._selector = selectors.DefaultSelector()

    def execute(self, elements: list[Element], jobs: int) -> signal.Signals | None:
        """Run elements, `jobs` at a time; what became of the rows is in the run directory.

        Returns the signal that stopped it, or None; by then nothing runs any more. Raises
        MachineError where an element needs more GPUs than the machine has.
        """
        for array in {element.array for element in elements}:
            if self._gpus.count and self._needs(array) > self._gpus.count:
                raise MachineError(
                    f"an element of {self._arrays[array].script} needs {self._needs(array)} GPUs, "
                    f"this machine has {self._gpus.count}"
                )
        for batch in array_elements.batches(elements, None):
            submission.record(self._run, "local", batch, job_id=os.getpid())
        waiting = deque(elements)
        with StopSignals() as signals, self._selector:
            self._selector.register(signals, selectors.EVENT_READ)
            try:
                while waiting or self._running:
                    while waiting and self._has_room(waiting[0], jobs):
                        self._start(waiting.popleft())
                    self._look()
                    if signals.first is not None:
                        self._stop(signals)
                        return signals.first
            finally:
                for element in self._running:
                    element.end()
        return None

    def _needs(self, array: int) -> int:
        return self._arrays[array].gpus * self._arrays[array].workers

    def _has_room(self, element: Element, jobs: int) -> bool:
        return len(self._running) < jobs and self._gpus.suffice(self._needs(element.array))

    def _start(self, element: Element) -> None:
        gpus = self._gpus.take(self._needs(element.array))
        variables = self._gpus.variables(gpus)
        started = LocalElement(self._run, element, self._shards[element], variables)
        self._running[started] = gpus
        self._selector.register(started, selectors.EVENT_READ)

    def _look(self) -> None:
        """Wait a moment; pass on what elements say, and see which have ended."""
        self._selector.select(_LOOK_S)
        for element in list(self._running):
            has_ended = element.has_ended()
            for line in element.lines():
                if line.startswith(_WORKER_MESSAGE):
                    self._report(f"{element.label}: {line[len(_WORKER_MESSAGE) :].rstrip()}")
            if has_ended:
                self._end(element)
        if time.monotonic() - self._refreshed > _REFRESH_S:
            self._refresh()
            self._refreshed = time.monotonic()

    def _end(self, element: LocalElement) -> None:
        self._selector.unregister(element)
        status = element.end()
        self._gpus.give_back(self._running.pop(element))
        if status == ExitStatus.TRY_AGAIN:
            self._report(f"{element.label}: stopped: run oe-submit {self._run.path} again")
        elif status != 0:
            self._report(f"{element.label}: exit status {status}; log: {element.log}")

    def _stop(self, signals: StopSignals) -> None:
        """Let what runs stop in order; not for ever, nor when somebody wants an end now."""
        self._selector.unregister(signals)
        for element in self._running:
            element.tell(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self._running and signals.order < StopOrder.NOW and time.monotonic() < deadline:
            self._look()


def command_line(run: Run, element: Element) -> str:
    """Return the shell command that runs an element."""
    script = str(run.path / run.arrays[element.array].script)
    return f"SLURM_ARRAY_TASK_ID={element.number} bash {shlex.quote(script)}"


class LocalElement:
    """A batch script that runs; `fileno` is readable when it has said something, or ended."""

    def __init__(
        self, run: Run, element: Element, shards: list[int], variables: Mapping[str, str]
    ) -> None:
        self.label = (
            f"shard {shards[0]}" if len(shards) == 1 else f"shards {shards[0]}-{shards[-1]}"
        )
        self.log = Path(run.path / LOGS / f"local_{shards[0]}.log")
        environment = {**os.environ, **variables, "SLURM_ARRAY_TASK_ID": str(element.number)}
        # In a job of the user's own: not this script is to requeue that.
        environment.pop("SLURM_ARRAY_JOB_ID", None)
        self._begun = b""
        self._stream = open(self.log, "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            ["bash", str(run.path / run.arrays[element.array].script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            # A group of its own: Ctrl-C reaches it through us, so that it stops in order.
            start_new_session=True,
            # The script passes it on to the worker, which stops in order, too.
            preexec_fn=lambda: processes.signal_at_parents_end(signal.SIGTERM),  # noqa: PLW1509
        )
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """Return what to wait for."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def lines(self) -> Iterator[str]:
        """Yield the lines that it has said since; they are in its log by then."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fileno(), 65536):
                self._stream.write(data)
                self._stream.flush()
                *lines, self._begun = (self._begun + data).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)

    def has_ended(self) -> bool:
        """Return whether the script has; what it has started may still run."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the script and all that it has started."""
        # Not reaped yet, so the number is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self) -> int:
        """End what still runs of it; return the script's exit status."""
        self.tell(signal.SIGKILL)
        status = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stream.close()
        return status
