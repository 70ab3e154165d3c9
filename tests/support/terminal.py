"""Commands on a terminal of a known width."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import tempfile
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect

from support.processes import BIN


def on_terminal(
    *command: str | Path, env: Mapping[str, str], width: int = 80, is_stderr: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdin and stdout are a terminal.

    Returns what the terminal shows as stdout; with `is_stderr` that includes stderr, which is
    otherwise apart.
    """
    # If a program inherits this from a shell, it does not ask the terminal for its size.
    environment = {name: value for name, value in env.items() if name != "COLUMNS"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
    with os.fdopen(ours, "rb") as screen, tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [BIN / command[0], *command[1:]],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if is_stderr else messages,
            env=environment,
        )
        os.close(theirs)
        text = b""
        try:
            while block := screen.read1(4096):
                text += block
        except OSError:
            pass  # Linux raises it if the other end of a terminal is closed.
        status = process.wait()
        messages.seek(0)
        # The terminal itself makes CR LF of a line end.
        shown = text.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        told = messages.read().decode("utf-8", "surrogateescape")
    return subprocess.CompletedProcess(process.args, status, shown, told)


def lines_on_terminal(*command: str | Path, env: Mapping[str, str], width: int = 80) -> list[str]:
    """Return the lines that a command prints on a terminal, those on stderr left out."""
    done = on_terminal(*command, env=env, width=width)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def converse(*command: str | Path, env: Mapping[str, str], cwd: Path) -> Any:
    """Start a command whose streams are a terminal of 80 × 24, to which a test can type.

    Returns pexpect's process, whose `expect` waits half a minute.
    """
    return pexpect.spawn(
        str(BIN / command[0]),
        [str(word) for word in command[1:]],
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=30,
        cwd=str(cwd),
        # This terminal does not tell where its cursor is.
        env=dict(env) | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"},
    )


def end(process: Any) -> int:
    """Wait for the end of a conversation, and return the exit status."""
    process.expect(pexpect.EOF)
    process.close()
    return int(process.exitstatus)
