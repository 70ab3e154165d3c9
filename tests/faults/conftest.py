"""The run that all tests of fuzzed files damage."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from support.fuzzed_place import Place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place of damaged files; in the end, print how the commands on them ended."""
    made = Place(tmp_path_factory.mktemp("fuzz").resolve())
    yield made
    sys.stdout.write(made.describe_ends())
