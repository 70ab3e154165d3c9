"""Fixtures of the tests of commands: places in which they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.build_yard import Yard
from support.doctor import Doctor
from support.fetching import Account
from support.hub import Hub
from support.hub_content import write_task
from support.processes import Run
from support.submitting import FakeSlurm


@pytest.fixture
def account(run: Run, tmp_path: Path, hub: Hub) -> Account:
    """Return an account that fetches from the hub."""
    return Account(run, tmp_path, hub)


@pytest.fixture
def cut_off(run: Run, tmp_path: Path) -> Account:
    """Return an account without a hub."""
    return Account(run, tmp_path, None)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Return a directory with the task quiz, whose data are local."""
    return write_task(tmp_path / "tasks", "quiz")


@pytest.fixture
def yard(run: Run, tmp_path: Path) -> Yard:
    """Return a place where oe-build builds."""
    return Yard(run, tmp_path)


@pytest.fixture
def doctor(run: Run, tmp_path: Path, slurm: FakeSlurm) -> Doctor:
    """Return a cluster of which nothing is wrong, for oe-doctor."""
    return Doctor(run, tmp_path, slurm)
