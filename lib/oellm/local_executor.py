"""Runs the batch script's array indices as processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from oellm.errors import ExitStatus
from oellm.run_directory import LOGS, Run

# The worker's messages begin with this; the log also has the framework's.
_WORKER_MESSAGE = "oe-run-task: "


class LocalExecutor:
    """Runs shards of one run, several at a time; their output goes to slurm_logs/."""

    def __init__(self, run: Run, report: Callable[[str], None]) -> None:
        self._run = run
        self._report = report
        self._lock = threading.Lock()
        self._stopped = False
        self._processes: set[subprocess.Popen[str]] = set()

    def execute(self, shards: list[int], jobs: int) -> None:
        """Run shards, `jobs` at a time; what became of the rows is in the run directory.

        Interrupted, it stops all of them before the KeyboardInterrupt goes on.
        """
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            try:
                # Through the results, an error in a thread becomes one here.
                for _ in pool.map(self._execute_one, shards):
                    pass
            except BaseException:
                self._stop()
                raise

    def _execute_one(self, shard: int) -> None:
        log = self._run.path / LOGS / f"local_{shard}.log"
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(shard)}
        # In a job of the user's own: not this script is to requeue that.
        environment.pop("SLURM_ARRAY_JOB_ID", None)
        with open(log, "a", encoding="utf-8") as stream:
            with self._lock:
                if self._stopped:
                    return
                process = subprocess.Popen(
                    ["bash", str(self._run.path / self._run.arrays[0].script)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    encoding="utf-8",
                    errors="replace",
                    # A group of its own: Ctrl-C reaches it through us, so that it stops in order.
                    start_new_session=True,
                )
                self._processes.add(process)
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
                stream.flush()
                if line.startswith(_WORKER_MESSAGE):
                    self._report(f"shard {shard}: {line[len(_WORKER_MESSAGE) :].rstrip()}")
            status = process.wait()
        with self._lock:
            self._processes.discard(process)
        if status == ExitStatus.TRY_AGAIN:
            self._report(f"shard {shard}: stopped: run oe-submit {self._run.path} again")
        elif status != 0:
            self._report(f"shard {shard}: exit status {status}; log: {log}")

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._processes:
                # One that has just ended must not keep the others from being stopped.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
