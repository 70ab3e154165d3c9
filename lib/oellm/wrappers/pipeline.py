"""Commands one after the other, as real processes: what a wrapper runs, a user can type."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from oellm.core.log import Log
from oellm.core.processes.stop_signals import catch_signals
from oellm.errors import ExitStatus, MachineError

Stage = Sequence[str]
# Called with a stage that has succeeded, its input, and its output.
OnOutput = Callable[[Stage, bytes, bytes], None]


def run_pipeline(
    stages: Sequence[Stage],
    *,
    log: Log,
    given: bytes | None = None,
    on_output: OnOutput | None = None,
) -> int:
    """Run commands, each on the output of the one before, once that has succeeded.

    The first reads `given`, or this process's stdin if it is None; the last one writes to this
    process's stdout. `on_output` is called after each but the last. Returns the status of the last
    command, or of the first that failed: half a manifest is never submitted.

    Raises MachineError if a command is not installed, before any of them runs.
    """
    programs = [find_command(stage[0]) for stage in stages]
    data = given
    for position, (program, stage) in enumerate(zip(programs, stages, strict=True)):
        is_last = position == len(stages) - 1
        log(shlex.join(stage))
        sys.stdout.flush()
        code, output = _run([program, *stage[1:]], data, is_last=is_last)
        if code != ExitStatus.DONE:
            # The last one has said why it failed, unless it was killed.
            if not is_last or _is_killed(code):
                log(f"stopped, {stage[0]} {_describe_end(code)}")
            return _status(code)
        if on_output and not is_last:
            on_output(stage, data or b"", output)
        data = output
    return ExitStatus.DONE


def run_captured(
    stage: Stage, given: bytes, *, log: Log, is_announced: bool = True
) -> tuple[int, bytes]:
    """Run one command on an input; return its status and its output.

    `log` gets the command line, if that is to be announced, and which signal has ended the command.
    Raises MachineError if it is not installed.
    """
    program = find_command(stage[0])
    if is_announced:
        log(shlex.join(stage))
    code, output = _run([program, *stage[1:]], given, is_last=False)
    if _is_killed(code):
        log(f"{stage[0]} {_describe_end(code)}")
    return _status(code), output


def shell_line(stages: Sequence[Stage], given: str | None = None) -> str:
    """Return the stages as one pipe to paste into a shell; `given` is the first one's file."""
    first, *others = map(shlex.join, stages)
    source = f" < {shlex.quote(given)}" if given else ""
    return " |\n  ".join([first + source, *others])


def find_command(name: str) -> str:
    """Return the path of a command: beside this one if both were installed together.

    Raises MachineError if there is none.
    """
    beside = os.path.dirname(os.path.abspath(sys.argv[0]))
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        this = os.path.basename(sys.argv[0])
        raise MachineError(f"{name} is neither installed beside {this} nor on PATH")
    return found


def become_command(words: Stage) -> NoReturn:
    """Become another command, so that its signals and its status are its own."""
    path = find_command(words[0])
    try:
        os.execv(path, [path, *words[1:]])  # noqa: S606
    except OSError as error:
        # The file is there, but not what its first line names.
        raise MachineError(f"{path} cannot be started: {error.strerror}") from None


def installed_commands(prefix: str) -> list[str]:
    """Return the names of the programs, beside this one and on PATH, that begin with a prefix."""
    directories = [os.path.dirname(os.path.abspath(sys.argv[0])), *os.get_exec_path()]
    found = {
        os.path.basename(path)
        for directory in directories
        for path in glob.glob(os.path.join(glob.escape(directory), f"{prefix}*"))
        if os.path.isfile(path) and os.access(path, os.X_OK)
    }
    return sorted(found)


def _run(command: Stage, data: bytes | None, *, is_last: bool) -> tuple[int, bytes]:
    """Return the return code and the output of a command, which is empty for the last one.

    The return code is that of `subprocess`: negative if a signal has ended the command.
    """
    with (
        _signals_passed_on() as pass_to,
        subprocess.Popen(
            command,
            stdin=None if data is None else subprocess.PIPE,
            stdout=None if is_last else subprocess.PIPE,
        ) as process,
    ):
        pass_to(process)
        output, _ = process.communicate(data)
    return process.returncode, output or b""


def _status(code: int) -> int:
    """Return the exit status of a return code, as a shell has it for a signal."""
    return code if code >= 0 else 128 - code


def _is_killed(code: int) -> bool:
    """Return whether a signal has ended a command, and not the user with Ctrl-C, who knows it."""
    return code < 0 and -code != signal.SIGINT


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-code, f'signal {-code}')}"


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Leave it to a process how it ends on a signal: oe-submit stops its jobs in good order.

    Gives the function that names the process; signals that come before it are sent then.
    """
    receivers: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        # Ctrl-C reaches all processes of the terminal; a second one would be an order to hurry.
        if number == signal.SIGINT and _is_in_foreground():
            return
        if receivers:
            receivers[0].send_signal(number)
        else:
            early.append(number)

    def pass_to(process: subprocess.Popen[bytes]) -> None:
        receivers.append(process)
        for number in early:
            process.send_signal(number)

    before = catch_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), forward)
    try:
        yield pass_to
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """Say whether keys such as Ctrl-C reach this process group."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
