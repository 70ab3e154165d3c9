"""Other versions of lm-eval than the installed one, for tests that run against them.

Each version is a directory of ~/.cache/oellm-tests that comes before the installed packages on
PYTHONPATH. Its dependencies are those of the installed version.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# The oldest version that works, and the newest one within the range of pyproject.toml.
REQUIREMENTS = ("lm-eval==0.4.12", "lm-eval<0.5")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oellm-tests"
# Seconds, after which the package index counts as unreachable.
_PATIENCE_S = 120.0


def provide_lm_eval(requirement: str) -> Path | None:
    """Return a directory with the newest lm-eval that satisfies a requirement.

    Returns None if that is the installed version. Skips the test if pip cannot get it; with CI=true
    the test fails instead.
    """
    name, _, pinned = requirement.partition("==")
    version = pinned or _newest_version(requirement)
    if version == importlib.metadata.version("lm_eval"):
        return None
    directory = _CACHE / f"{name}-{version}"
    if not directory.is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as staged:
            target = Path(staged, "lm-eval")
            _run_pip("install", "--target", str(target), f"{name}=={version}")
            _remove_shipped_tasks(target / "lm_eval" / "tasks")
            if not directory.is_dir():
                target.rename(directory)
    return directory


def _newest_version(requirement: str) -> str:
    report = _run_pip("install", "--dry-run", "--ignore-installed", "--report=-", requirement)
    (package,) = json.loads(report)["install"]
    return str(package["metadata"]["version"])


def _remove_shipped_tasks(directory: Path) -> None:
    """Remove the folders of the 14,000 task files, which these tests do not use."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def _run_pip(command: str, *arguments: str) -> str:
    pip = [sys.executable, "-m", "pip", command, "--no-deps", "--quiet"]
    options = ["--disable-pip-version-check", "--no-input", "--retries=1"]
    try:
        done = subprocess.run(
            [*pip, *options, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        reason = f"pip {command} took more than {_PATIENCE_S:.0f} s"
    else:
        if done.returncode == 0:
            return done.stdout
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    reason = f"another lm-eval could not be installed: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
