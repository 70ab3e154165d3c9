"""Checks in processes of their own, all at once, each with a time-out.

A process that waits for a file system that hangs cannot even be killed. So no check runs in this
process, none inherits its stdout or stderr, and nobody waits for one that is late.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from oellm.core import json_codec
from oellm.core.log import Log
from oellm.core.processes.children import signal_at_parents_end
from oellm.doctor.diagnoses import MEND_THAT, Diagnosis, found_wrong
from oellm.errors import OellmError

_CHUNK = 65536
# Seconds that checks which are stopped have to remove what they have made.
_GRACE_S = 2.0
# Seconds between two updates of what is waited for.
_LOOK_S = 0.5
_SILENT = "a file system or service hangs: ask the site, or give the check more time (--timeout)"


class Check(NamedTuple):
    """Something to check: its name, and what finds out about it."""

    name: str
    find: Callable[[], Iterable[Diagnosis]]


@dataclass(eq=False)
class _Process:
    """A check that runs, and what it has written so far."""

    check: Check
    pid: int
    source: int
    content: bytearray = field(default_factory=bytearray)

    def fileno(self) -> int:
        return self.source


def run_checks(
    checks: Sequence[Check], timeout_s: float, show: Log = lambda _: None
) -> Iterator[list[Diagnosis]]:
    """Run checks at the same time; yield what each has found, in their order.

    `show` gets what is waited for. A check that takes longer than `timeout_s`, or fails, is a
    finding itself. When this ends, nothing runs any more but what nothing can stop.
    """
    deadline = time.monotonic() + timeout_s
    processes = [_start(check) for check in checks]
    found: dict[str, list[Diagnosis]] = {}
    try:
        with selectors.DefaultSelector() as selector:
            for process in processes:
                selector.register(process, selectors.EVENT_READ)
            for check in checks:
                while check.name not in found:
                    show("checking " + ", ".join(p.check.name for p in processes))
                    for process in _look(selector, deadline):
                        processes.remove(process)
                        found[process.check.name] = _read(process)
                    if check.name not in found and time.monotonic() > deadline:
                        text = f"it did not end within {timeout_s:.0f} s"
                        found[check.name] = [found_wrong(check.name, text, _SILENT)]
                yield found[check.name]
    finally:
        show("")
        _stop(processes)


def _look(selector: selectors.BaseSelector, deadline: float) -> Iterator[_Process]:
    """Wait a moment; yield the checks that have ended."""
    left_s = max(0.0, deadline - time.monotonic())
    for key, _ in selector.select(min(_LOOK_S, left_s)):
        process = key.fileobj
        assert isinstance(process, _Process)
        if data := os.read(process.source, _CHUNK):
            process.content += data
            continue
        selector.unregister(process)
        _end(process)
        yield process


def _start(check: Check) -> _Process:
    source, target = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        os.close(target)
        return _Process(check, pid, source)
    try:
        # A group of its own, so that what it starts ends with it.
        os.setsid()
        signal.signal(signal.SIGTERM, _leave)
        signal_at_parents_end(signal.SIGTERM)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        with open(target, "wb") as stream:
            stream.write(json_codec.dumps([one.to_json() for one in _find(check)]))
    finally:
        os._exit(0)


def _leave(*_: object) -> None:
    """Leave a check in order: it removes what it has made, and ends what it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def _find(check: Check) -> list[Diagnosis]:
    try:
        return list(check.find())
    except OellmError as error:
        return [found_wrong(check.name, str(error), MEND_THAT)]
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return [found_wrong(check.name, f"{place}{error.strerror or error}", MEND_THAT)]
    except Exception as error:
        return [found_wrong(check.name, f"internal error: {error!r}", MEND_THAT)]


def _read(process: _Process) -> list[Diagnosis]:
    try:
        return [Diagnosis.from_json(one) for one in json_codec.loads(bytes(process.content))]
    except ValueError:
        return [found_wrong(process.check.name, "the process of the check was killed", MEND_THAT)]


def _stop(processes: Sequence[_Process]) -> None:
    """End checks; those that do not remove what they have made within _GRACE_S are killed."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    running = list(processes)
    while running and time.monotonic() < deadline:
        running = [process for process in running if not _has_ended(process)]
        time.sleep(0.01)
    for process in processes:
        _end(process)


def _has_ended(process: _Process) -> bool:
    with contextlib.suppress(ChildProcessError):
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, options) is not None
    return True


def _end(process: _Process) -> None:
    """Kill what still runs of a check, without waiting for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(process.pid, os.WNOHANG)
        os.close(process.source)
