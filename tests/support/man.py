"""Pages of man, shown by the real man."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.skipping import require_program

# Overstriking, by which man marks bold and underlined text in a pipe.
_OVERSTRIKE = re.compile(r".\x08")


def require_man() -> None:
    require_program("man", installer="install-terminal-programs")


def show(*words: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Return what man shows on a terminal of 80 columns; fails if man warns of anything."""
    require_man()
    settings = {"LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"}
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", *words],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **(env or {}), **settings},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return _OVERSTRIKE.sub("", done.stdout)
