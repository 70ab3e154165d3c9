"""Runs array elements on this machine, several at a time as far as its GPUs suffice."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from oellm.clusters import gpu_variables
from oellm.core.log import Log
from oellm.core.processes.children import signal_at_parents_end
from oellm.core.processes.stop_signals import StopOrder, StopSignals
from oellm.errors import ExitStatus, MachineError
from oellm.runs.run_directory import LOGS, Run
from oellm.runs.run_record import Executor
from oellm.runs.shard_jobs import read_log_end
from oellm.slurm.job_ends import last_line
from oellm.submit import array_elements, batch_call
from oellm.submit.array_elements import Element, UnfinishedRows
from oellm.submit.element_log import ElementLog
from oellm.submit.failing_nodes import read_beats, shows_a_row
from oellm.submit.job_environment import job_environment
from oellm.submit.local_gpus import LocalGpus
from oellm.submit.submission import new_submission

# The worker's messages begin with this; the log also has those of the framework.
_WORKER_MESSAGE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?oe-run-task: ", re.ASCII)
# Seconds that elements have to stop in order; a worker takes 20 at most.
_GRACE_S = 30.0
# Seconds between two looks at what runs, and between two calls of `refresh`.
_LOOK_S = 0.2
_REFRESH_S = 60.0
# Elements that end before their first row is loaded until no more are started.
_ENDS = 2


class LocalExecutor:
    """Runs elements of one run, several at a time; their output goes to slurm_logs/.

    `rows` tells whether the second stages of an element have anything from the first when their
    turn comes. `log` gets the workers' messages; `refresh` is called each minute.
    """

    def __init__(
        self, run: Run, rows: UnfinishedRows, log: Log, refresh: Callable[[], None]
    ) -> None:
        self._rows = rows
        self._run = run
        self._log = log
        self._refresh = refresh
        self._refreshed_at = time.monotonic()
        self._shards = array_elements.shards_by_element(run)
        order = gpu_variables.order_by_settings(
            run.setting("container_args") or [], run.setting("gpu_gres") or ""
        )
        self._gpus = LocalGpus(os.environ, order or gpu_variables.order_by_devices())
        # The elements that run, each with its GPUs.
        self._running: dict[LocalElement, list[str]] = {}
        self._selector = selectors.DefaultSelector()
        # The last elements that ended before their first row was loaded, one after the other.
        self._swallowed: list[LocalElement] = []

    def execute(self, elements: list[Element], jobs: int) -> signal.Signals | None:
        """Run elements, `jobs` at a time; the run directory then tells what became of their rows.

        Returns the signal that stopped it, or None; by then nothing runs any more. Raises
        MachineError if an element needs more GPUs than the machine has, or if two elements, one
        after the other, end before their first row is loaded; then the others are not started.
        """
        for array in {element.array for element in elements}:
            if self._gpus.count and self._needed_gpus(array) > self._gpus.count:
                raise MachineError(
                    f"an element of {self._run.arrays[array].script} needs "
                    f"{self._needed_gpus(array)} GPUs, but this machine has {self._gpus.count}"
                )
        for batch in array_elements.make_batches(elements, None):
            self._run.submissions.append(new_submission(Executor.LOCAL, batch, job_id=os.getpid()))
        self._run.save()
        waiting = deque(elements)
        with StopSignals() as signals, self._selector:
            self._selector.register(signals, selectors.EVENT_READ)
            try:
                while self._running or (waiting and not self._swallows()):
                    while waiting and not self._swallows() and self._has_room(waiting[0], jobs):
                        if self._is_ready(chosen := waiting.popleft()):
                            self._start(chosen)
                    self._look()
                    if signals.first is not None:
                        self._stop(signals)
                        return signals.first
            finally:
                for element in self._running:
                    element.end()
        if waiting:
            last = self._swallowed[-1]
            raise MachineError(
                f"{len(self._swallowed)} elements ended before their first row was loaded; "
                f"{len(waiting)} more are not started: {last_line(read_log_end(last.log_file))}; "
                f"log: {last.log_file}"
            )
        return None

    def _swallows(self) -> bool:
        """Return whether this machine ends elements at once, as a broken node does."""
        return len(self._swallowed) >= _ENDS

    def _needed_gpus(self, array: int) -> int:
        return self._run.arrays[array].gpus * self._run.arrays[array].workers

    def _has_room(self, element: Element, jobs: int) -> bool:
        has_gpus = self._gpus.suffice(self._needed_gpus(element.array))
        # What it follows has been started: its array comes before.
        leader = array_elements.followed_element(self._run, element)
        is_followed = leader in [running.element for running in self._running]
        return len(self._running) < jobs and has_gpus and not is_followed

    def _is_ready(self, element: Element) -> bool:
        """Return whether an element has rows that can be computed; `log` is told if it has none."""
        self._rows.refresh()
        shards = self._shards[element]
        if any(map(self._rows.count_ready, shards)):
            return True
        self._log(f"shard {shards[0]}: without anything from a first stage, not started")
        return False

    def _start(self, element: Element) -> None:
        gpus = self._gpus.take(self._needed_gpus(element.array))
        environment = {
            **job_environment(os.environ, self._run.setting("stage_dir") or ""),
            **self._gpus.variables(gpus),
            "SLURM_ARRAY_TASK_ID": str(element.number),
        }
        started = LocalElement(
            self._run, element, self._shards[element], environment=environment, log=self._log
        )
        self._running[started] = gpus
        self._selector.register(started, selectors.EVENT_READ)

    def _look(self) -> None:
        """Wait a moment; pass on the messages of elements, and see which have ended."""
        self._selector.select(_LOOK_S)
        for element in list(self._running):
            has_ended = element.has_ended()
            for line in element.new_lines():
                if message := _WORKER_MESSAGE.match(line):
                    self._log(f"{element.label}: {line[message.end() :].rstrip()}")
            if has_ended:
                self._end(element)
        if time.monotonic() - self._refreshed_at > _REFRESH_S:
            self._refresh()
            self._refreshed_at = time.monotonic()

    def _end(self, element: LocalElement) -> None:
        self._selector.unregister(element)
        status = element.end()
        self._gpus.give_back(self._running.pop(element))
        self._note_end(element, status)
        if status == ExitStatus.TRY_AGAIN:
            self._log(f"{element.label}: stopped: run oe-submit {self._run.path} again")
        elif status != 0:
            self._log(f"{element.label}: exit status {status}; log: {element.log_file}")

    def _note_end(self, element: LocalElement, status: int) -> None:
        heartbeats = read_beats(self._run)
        beats = [heartbeats[shard] for shard in element.shards if shard in heartbeats]
        ours = [beat for beat in beats if beat.attempt.update_time >= element.started]
        if any(map(shows_a_row, ours)) or status == 0:
            self._swallowed.clear()
        elif status > 0 and status != ExitStatus.TRY_AGAIN:
            self._swallowed.append(element)

    def _stop(self, signals: StopSignals) -> None:
        """Let what runs stop in order, but not for ever, and not if the user insists."""
        self._selector.unregister(signals)
        for element in self._running:
            element.send_signal(signal.SIGTERM)
        if self._running:
            self._log("waiting for the workers to stop; a second Ctrl-C kills them")
        deadline = time.monotonic() + _GRACE_S
        while self._running and signals.order < StopOrder.NOW and time.monotonic() < deadline:
            self._look()


def command_line(run: Run, element: Element) -> str:
    """Return the shell command that runs an element."""
    return f"SLURM_ARRAY_TASK_ID={element.number} {shlex.join(_bash(run, element))}"


def _bash(run: Run, element: Element) -> list[str]:
    """Return the command that runs an element, as words."""
    script = str(run.path / run.arrays[element.array].script)
    return ["bash", script, *batch_call.script_arguments(run, 0)]


class LocalElement:
    """A batch script that runs; `fileno` is readable when it has printed something or ended.

    `shards` are those of the element's workers. `log` is told if the file cannot be written that
    keeps what the element prints; the element runs on.
    """

    def __init__(
        self,
        run: Run,
        element: Element,
        shards: list[int],
        *,
        environment: Mapping[str, str],
        log: Log,
    ) -> None:
        self.label = (
            f"shard {shards[0]}" if len(shards) == 1 else f"shards {shards[0]}-{shards[-1]}"
        )
        self.element = element
        self.shards = shards
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.log_file = Path(run.path / LOGS / f"local_{shards[0]}.log")
        self._output = ElementLog(self.log_file, lambda text: log(f"{self.label}: {text}"))
        self._process = subprocess.Popen(
            _bash(run, element),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            # A session of its own: Ctrl-C reaches the script through us, so that it stops in order.
            start_new_session=True,
            # The script passes the signal on to the worker, which also stops in order.
            preexec_fn=lambda: signal_at_parents_end(signal.SIGTERM),  # noqa: PLW1509
        )
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def new_lines(self) -> Iterator[str]:
        """Yield the lines printed since the last call; by then they are in the log."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fileno(), 65536):
                yield from self._output.add(data)

    def has_ended(self) -> bool:
        """Return whether the script has ended; processes that it started may still run."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the script and to all processes that it has started."""
        # The script is not reaped yet, so no other process can have its number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self) -> int:
        """Kill what still runs of the element; return the script's exit status."""
        self.send_signal(signal.SIGKILL)
        status = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._output.close()
        return status
