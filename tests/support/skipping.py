"""What becomes of a test if this machine lacks what the test needs."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; in CI, where everything is to be installed, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_program(name: str, *, installer: str) -> None:
    """Skip the test, or fail in CI, if this machine lacks a program; a script installs it."""
    if shutil.which(name) is None:
        skip_or_fail(f"{name} is missing (scripts/{installer} installs it)")
