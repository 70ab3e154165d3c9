"""Long texts for people: through a pager, as git does it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping

# less ends at once if the text fits the screen, shows bold text, and leaves the text on the screen.
_DEFAULTS = {"LESS": "FRX", "LESSCHARSET": "utf-8"}
# Of a shell that cannot find or start a program.
_NOT_STARTED = (126, 127)


def show_in_pager(text: str, environ: Mapping[str, str]) -> bool:
    """Show a text in $PAGER, by default less, until the user ends it.

    Returns False if there is no pager, or the user wants none: PAGER is empty, or cat.
    """
    default = "less" if shutil.which("less", path=environ.get("PATH")) else ""
    command = environ.get("PAGER", default)
    if command.strip() in ("", "cat"):
        return False
    # Ctrl-C is for the pager, which would inherit SIG_IGN, but inherits no function.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        done = subprocess.run(
            ["sh", "-c", command],
            input=text.encode(errors="replace"),
            env={**_DEFAULTS, **environ},
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode not in _NOT_STARTED
