"""Environments of jobs that no test starts."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


@functools.cache
def idle_venv() -> Path:
    """Return a virtual environment, as far as oe-render looks: it has a Python that does nothing.

    It is another one than that of the commands, so which tasks it has is not known.
    """
    directory = Path(tempfile.mkdtemp(prefix="venv-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "bin").mkdir()
    python = directory / "bin" / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return directory
