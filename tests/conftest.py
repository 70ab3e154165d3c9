"""Fixtures that all tests share, and the order in which the tests run."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from support import scheduling
from support.hub import hub  # noqa: F401
from support.preparing import preparing  # noqa: F401
from support.processes import Run, make_tiny_model, runner
from support.registry import registry, registry_with_login  # noqa: F401
from support.submitting import (
    rendered,  # noqa: F401
    slurm,  # noqa: F401
)

# How long an example takes says nothing about the code when the machine is busy.
hypothesis.settings.register_profile("oellm", deadline=None)
hypothesis.settings.load_profile("oellm")

# A shell starts background jobs with SIGINT ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # nohup has it ignored. A handler, too, keeps this process; commands do not inherit it.
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, and start with the files that take longest."""
    config.option.loadscopereorder = False
    return scheduling.FileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on real Slurm first, then files with many slow tests.

    The tests on real Slurm mostly wait, so the other processes compute in the meantime.
    """
    slow_tests: Counter[str] = Counter()
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        slow_tests[scheduling.group(item.nodeid)] += is_slow

    def order(item: pytest.Item) -> tuple[bool, int]:
        group = scheduling.group(item.nodeid)
        return group != scheduling.REAL_SLURM, -slow_tests[group]

    items.sort(key=order)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a command as a process, with its own directory and home."""
    return runner(tmp_path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model, which all tests of a process share."""
    directory = tmp_path_factory.mktemp("models") / "tiny" / "iter_0001000"
    make_tiny_model(directory)
    return directory


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 400 kB as the Hugging Face cache; skip if that is not permitted."""
    directory = tmp_path / "hf"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", directory]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", directory], check=True)
