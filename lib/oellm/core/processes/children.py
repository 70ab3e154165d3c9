"""Child processes: they end with this process, and read nothing from its stdin."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Of <sys/prctl.h>: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1
# Loaded here, because nothing may be loaded between fork and exec.
_prctl = ctypes.CDLL(None).prctl
# A batch system or a terminal sends these to all processes of a job; the parent decides about them.
_FOR_THE_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# Seconds that a child has to end when it has closed its connection, or was killed.
_SOON_S = 20.0
_BOOT = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "sys.argv[1] in sys.path or sys.path.insert(0, sys.argv[1]); "
    "from importlib import import_module; from oellm.core.processes import children; "
    "children.serve_parent(import_module(sys.argv[2]).serve, *map(int, sys.argv[3:]))"
)


class Child:
    """A child process, and the connection to it."""

    def __init__(self, connection: Connection, process: Any) -> None:
        self.connection = connection
        self._process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self._process.pid)

    def terminate(self) -> None:
        """Ask the child to stop."""
        self._process.terminate()

    def kill(self) -> str:
        """End the child at once; return how it ended, as in `was killed by signal 9 SIGKILL`."""
        self.connection.close()
        self._process.kill()
        # A process that waits in the kernel, for a driver or a file system, ends when that answers.
        return self._describe_end() or "does not end although it was killed"

    def wait(self) -> str:
        """Wait for a child that closed its end of the connection; return how it ended.

        A child that goes on nevertheless is killed.
        """
        self.connection.close()
        return self._describe_end() or self.kill()

    def _describe_end(self) -> str:
        """Return how the child ended; empty if it has not ended soon."""
        status: int | None
        if isinstance(self._process, subprocess.Popen):
            try:
                status = self._process.wait(_SOON_S)
            except subprocess.TimeoutExpired:
                status = None
        else:
            self._process.join(_SOON_S)
            status = self._process.exitcode
        if status is None:
            return ""
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else ""
            return f"was killed by signal {-status} {name}".rstrip()
        return f"ended with status {status}"


def start_python(module: str) -> Child:
    """Start a fresh Python that calls serve(connection) of a module of this library.

    It inherits neither the imports of this process nor the state of an accelerator.
    """
    ours, theirs = multiprocessing.Pipe()
    root = str(Path(__file__).parents[3])
    numbers = (str(theirs.fileno()), str(os.getpid()))
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, root, module, *numbers],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return Child(ours, process)


def fork(serve: Callable[[Connection], None], inherited: Iterable[Connection]) -> Child:
    """Fork a process that calls serve(connection).

    It closes `inherited`, the connections of this process to its other children.
    """
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_begin_fork, args=(serve, theirs, [ours, *inherited]))
    process.start()
    theirs.close()
    return Child(ours, process)


def serve_parent(serve: Callable[[Connection], None], descriptor: int, parent: int) -> None:
    """Run in the process that `start_python` started: serve the connection until it ends."""
    _depend_on(parent)
    with contextlib.suppress(EOFError, ConnectionError):
        serve(Connection(descriptor))


def signal_at_parents_end(number: signal.Signals | None) -> None:
    """Ask the kernel to send this process a signal when its parent ends; None for no signal.

    Safe between fork and exec. If the parent may have ended before, compare os.getppid() after it.
    """
    _prctl(_PR_SET_PDEATHSIG, number or 0)


def _begin_fork(
    serve: Callable[[Connection], None], connection: Connection, inherited: Iterable[Connection]
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.set_wakeup_fd(-1)
    for other in inherited:
        other.close()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    _depend_on(int(parent.pid or 0))
    with contextlib.suppress(EOFError, ConnectionError):
        serve(connection)


def _depend_on(parent: int) -> None:
    # Not SIG_IGN, which programs that this process starts would inherit.
    for number in _FOR_THE_PARENT:
        signal.signal(number, lambda *_: None)
    signal_at_parents_end(signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended before we asked for the signal.
        os._exit(1)
