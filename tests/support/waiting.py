"""Waiting for what other processes do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool],
    seconds: float = 180,
    process: subprocess.Popen[str] | None = None,
) -> None:
    """Wait for a condition; fail if it does not hold in time, or if the process ends before.

    A busy machine may need minutes.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            told = process.stderr.read() if process.stderr else ""
            raise AssertionError(f"{process.args!r} ended with status {process.returncode}\n{told}")
        assert time.monotonic() < deadline, f"{seconds} s have passed"
        time.sleep(0.05)
