"""Processes below this one: they end when it does, and read nothing from its stdin."""

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
# What a batch system or a terminal sends to all processes of a job; the parent decides about it.
_FOR_THE_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_BOOT = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "sys.argv[1] in sys.path or sys.path.insert(0, sys.argv[1]); "
    "from importlib import import_module; from oellm.core import processes; "
    "processes.begin(import_module(sys.argv[2]).serve, *map(int, sys.argv[3:]))"
)


class Child:
    """A process, and the connection to it."""

    def __init__(self, connection: Connection, process: Any) -> None:
        self.connection = connection
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid)

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.terminate()

    def kill(self) -> str:
        """End it at once, or see that it has ended; return how, as in `ended by signal 9`."""
        self.connection.close()
        self._process.kill()
        return self._ended()

    def crashed(self) -> str:
        """Return how a process ended that has closed its end of the connection."""
        self.connection.close()
        return self._ended()

    def _ended(self) -> str:
        if isinstance(self._process, subprocess.Popen):
            status: int = self._process.wait()
        else:
            self._process.join()
            status = self._process.exitcode or 0
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else ""
            return f"was ended by signal {-status} {name}".rstrip()
        return f"ended with status {status}"


def started(module: str) -> Child:
    """Start a fresh Python that calls serve(connection) of a module of this library.

    It has imported nothing of what this process has, and inherits no state of an accelerator.
    """
    ours, theirs = multiprocessing.Pipe()
    root = str(Path(__file__).parent.parent.parent)
    numbers = (str(theirs.fileno()), str(os.getpid()))
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, root, module, *numbers],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return Child(ours, process)


def forked(serve: Callable[[Connection], None], inherited: Iterable[Connection]) -> Child:
    """Fork a process that calls serve(connection), without the other connections of this one."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_begin_fork, args=(serve, theirs, [ours, *inherited]))
    process.start()
    theirs.close()
    return Child(ours, process)


def begin(serve: Callable[[Connection], None], descriptor: int, parent: int) -> None:
    """Be a fresh process that `started` started."""
    _settle(parent)
    with contextlib.suppress(EOFError, ConnectionError):
        serve(Connection(descriptor))


def signal_at_parents_end(number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends; safe between fork and exec.

    A parent that has ended already sends none: compare os.getppid() afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def silence_bars() -> None:
    """Let no library draw bars in this process: those of several would mix with messages."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    draw = tqdm.__init__

    def draw_nothing(bar: Any, *arguments: Any, **options: Any) -> None:
        draw(bar, *arguments, **{**options, "disable": True})

    tqdm.__init__ = draw_nothing


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
    _settle(int(parent.pid or 0))
    with contextlib.suppress(EOFError, ConnectionError):
        serve(connection)


def _settle(parent: int) -> None:
    # A handler that does nothing, not SIG_IGN: programs that this process starts have the default.
    for number in _FOR_THE_PARENT:
        signal.signal(number, lambda *_: None)
    signal_at_parents_end(signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before it was said that we go with it.
        os._exit(1)
