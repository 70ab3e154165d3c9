"""A model of the toy, for the tests of workers with programs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.toy_rows import ToyModel, temporary


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ToyModel]:
    """Make a model; remove the temporary files of the processes of a test afterwards."""
    yield ToyModel(tmp_path / "models" / "toy")
    shutil.rmtree(temporary(tmp_path))
