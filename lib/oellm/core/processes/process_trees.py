"""A program with all the processes that it starts: they end together, and with this process.

A process in between, the guard, starts the program in a session of its own. Whatever the program
leaves behind becomes the guard's child, which ends it. If this process ends, even by SIGKILL, the
guard notices that its connection has closed and ends the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from oellm.core.processes import children

# Of <sys/prctl.h>.
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl
# What Python ignores and a program must not.
_NEVER_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
_DEFAULTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
# Seconds to wait for processes that were killed; those that wait in the kernel may take longer.
_SOON_S = 10.0
# The statuses of a shell for a program that cannot be started, and for one that is not there.
_NOT_STARTED, _NOT_FOUND = 126, 127


class Terminate(NamedTuple):
    """Asks the guard to send SIGTERM to the program's session."""


class ProcessTree:
    """A running program, as this process sees it.

    `action` runs in a process of its own; it replaces the process by a program, or returns an exit
    status. Its stdout and stderr are the descriptor `output`, which the caller closes; its stdin is
    empty.

    Attributes:
        connection: Becomes readable when the program has ended.
    """

    def __init__(self, action: Callable[[], int], output: int) -> None:
        self._guard = children.fork(lambda connection: _guard(action, output, connection), [])
        self.connection: Connection = self._guard.connection

    def terminate(self) -> None:
        """Ask the program to end, as SIGTERM does."""
        with contextlib.suppress(OSError):
            self.connection.send(Terminate())

    def kill(self) -> None:
        """End the program, and all that it has started, at once."""
        self.connection.close()
        # The guard ends when it has killed everything.
        self._guard.wait()

    def wait(self) -> int:
        """Return how the program ended: its exit status, or minus the number of a signal.

        All that it has started has ended then, too.
        """
        try:
            status: int = self.connection.recv()
        except (EOFError, ConnectionError):
            # Somebody has killed the guard.
            status = -signal.SIGKILL
        self._guard.wait()
        return status


def run_program(argv: Sequence[str], env: Mapping[str, str], directory: str) -> int:
    """Replace this process by a program; return a shell's status if that is impossible."""
    try:
        os.chdir(directory)
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED


def _guard(action: Callable[[], int], output: int, connection: Connection) -> None:
    """Run in the guard: start the program, and end it, and all of its children, in time."""
    children.signal_at_parents_end(None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    program = os.fork()
    if program == 0:
        _run(action, output)
    os.close(output)
    status = None
    while status is None:
        ready = wait([connection, ours])
        if ours in ready:
            with contextlib.suppress(BlockingIOError):
                ours.recv(4096)
            status = _reap(program)
        elif connection in ready:
            try:
                connection.recv()
            except (EOFError, ConnectionError):
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program, signal.SIGTERM)
    _kill_children()
    if status is not None:
        connection.send(status)
    connection.close()
    # Nothing of what this process has taken over from its parent may run at its end.
    os._exit(0)


def _run(action: Callable[[], int], output: int) -> None:
    """Run in the program's process: call the action and end."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_NEVER_IGNORED, *_DEFAULTS):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        children.signal_at_parents_end(signal.SIGKILL)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        # Not the streams that stamp the lines of a log: what is written here is stamped later.
        with open(2, "w", buffering=1, closefd=False, errors="backslashreplace") as stream:
            sys.stdout = sys.stderr = stream
            status = action()
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        os._exit(status & 255)


def _reap(program: int) -> int | None:
    """Take note of all children that have ended; return how the program ended, if it has."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == program:
                status = os.waitstatus_to_exitcode(wait_status)
    return status


def _kill_children() -> None:
    """End all children, and their children, which become ours when those end."""
    deadline = time.monotonic() + _SOON_S
    while pids := _descendants():
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        _reap(0)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _descendants() -> list[int]:
    """Return all living processes that this one, or one of its children, has started."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:
                    fields = stream.read().rpartition(")")[2].split()
                parents[int(name)] = int(fields[1])
    found = {os.getpid()}
    size = 0
    while size != len(found):
        size = len(found)
        found.update(pid for pid, parent in parents.items() if parent in found)
    return sorted(found - {os.getpid()})
