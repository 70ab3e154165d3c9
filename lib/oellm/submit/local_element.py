"""An array element that runs as a process on this machine, with all that it starts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from oellm.runs.run_directory import LOGS, Run
from oellm.submit.submission import Element

# Of <sys/prctl.h>: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


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
        # Loaded here: between fork and exec nothing may be.
        prctl = ctypes.CDLL(None).prctl
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
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509
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
