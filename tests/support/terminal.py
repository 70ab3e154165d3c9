"""Commands on a terminal of a known width."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path

from support.processes import BIN


def lines_on_terminal(
    *command: str | Path, env: Mapping[str, str], width: int = 80, status: int = 0
) -> list[str]:
    """Return the lines that a command prints on a terminal, those on stderr left out."""
    # If a program inherits this from a shell, it does not ask the terminal for its size.
    environment = {name: value for name, value in env.items() if name != "COLUMNS"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
    with os.fdopen(ours, "rb") as screen:
        words = [str(word) for word in command]
        process = subprocess.Popen(
            [BIN / words[0], *words[1:]],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        os.close(theirs)
        text = b""
        try:
            while block := screen.read1(4096):
                text += block
        except OSError:
            pass  # Linux raises it if the other end of a terminal is closed.
        assert process.wait() == status
    return text.decode().splitlines()
