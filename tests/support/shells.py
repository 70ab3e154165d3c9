"""Interactive shells that complete oellm's commands, each on a terminal of its own."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect

from support.skipping import require_program

SHELLS = ("bash", "zsh", "fish")
_ARGUMENTS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--private"]}
# Ctrl-X p writes the line that is being typed to the file $TYPED, and a line on the terminal.
_SETUP = {
    "bash": (
        "bind 'set enable-bracketed-paste off'; bind 'set page-completions off'; "
        "bind 'set show-all-if-ambiguous on'; bind 'set completion-query-items 0'; "
        r"""bind -x '"\C-xp": printf "%s\n" "$READLINE_LINE" >"$TYPED"'"""
    ),
    "zsh": (
        "LISTMAX=100000; "
        r'show() { print -r -- "$BUFFER" >"$TYPED" }; zle -N show; bindkey "^Xp" show'
    ),
    "fish": r"bind \cxp 'commandline >$TYPED'",
}
LOAD = {
    "bash": 'eval "$(oellm completion bash)"',
    "zsh": 'eval "$(oellm completion zsh)"',
    "fish": "oellm completion fish | source",
}
_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()=>][0-9A-Z]?|\r")
# A busy machine needs seconds for a start of a shell.
_PATIENCE_S = 60


def require_shell(name: str) -> None:
    """Skip the test, or fail in CI, if this machine lacks a shell."""
    require_program(name, installer="install-terminal-programs")


class Shell:
    """A shell in a directory; `load` is the line that its user has in the file of its settings."""

    def __init__(self, name: str, *, env: Mapping[str, str], cwd: Path, load: str = "") -> None:
        require_shell(name)
        self.name = name
        self._cwd = cwd
        self._typed = Path(env["HOME"]) / "typed"
        # zsh and bash would read the user's settings from there.
        self._env = {**env, "TYPED": str(self._typed), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self._process: Any = pexpect.spawn(
            name,
            _ARGUMENTS[name],
            dimensions=(60, 160),
            encoding="utf-8",
            codec_errors="replace",
            timeout=_PATIENCE_S,
            cwd=str(cwd),
            env=self._env,
        )
        self._process.sendline(f"{_SETUP[name]}; {load or LOAD[name]}; echo set'-'up")
        self._process.expect("set-up")
        self._read()

    def complete(self, text: str) -> str:
        """Type a text and TAB; return what is on the line then."""
        self._typed.unlink(missing_ok=True)
        # The shell reads the second key when it has completed.
        self._process.send(f"{text}\t\x18p")
        until = time.monotonic() + _PATIENCE_S
        while not self._typed.exists() or not (line := self._typed.read_text()):
            assert time.monotonic() < until, f"{self.name} hangs after {text!r}"
            self._read()
        self._clear()
        return line.removesuffix("\n")

    def require_list(self, text: str, words: set[str]) -> None:
        """Type a text and TAB; fail if the terminal does not list these words then."""
        self._process.send(f"{text}\t")
        until = time.monotonic() + _PATIENCE_S
        shown = ""
        # Escape codes stand between words, or within them.
        while not words <= {*_CODES.sub(" ", shown).split(), *_CODES.sub("", shown).split()}:
            assert time.monotonic() < until, f"{self.name} shows {shown}"
            shown += self._read()
        self._clear()

    def split(self, line: str) -> list[str]:
        """Return the words of a line, as this shell passes them to a command."""
        done = subprocess.run(
            [self.name, "-c", f"printf '%s\\0' {line}"],
            env=self._env,
            cwd=self._cwd,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().split("\0")[:-1]

    def close(self) -> None:
        """End the shell."""
        self._process.close(force=True)

    def _clear(self) -> None:
        """Leave the list, and empty the line."""
        self._process.send("\x05\x15")
        self._read()

    def _read(self) -> str:
        """Return what the terminal has been sent."""
        shown = ""
        while True:
            try:
                shown += self._process.read_nonblocking(65536, timeout=0.02)
            except pexpect.TIMEOUT:  # noqa: PERF203
                return shown
