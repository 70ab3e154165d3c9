"""Programs in the sandbox of this machine, without a container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oellm.clusters.cluster import Cluster
from oellm.sandbox.contained import Contained, ContainedEnd, Layers, Limits
from oellm.sandbox.layers import find_layers
from oellm.sandbox.running import run_contained
from support.hostile_runs import NUMBER, USER
from support.skipping import skip_or_fail

BARE = Layers(container=False, namespaces=True, guard=True, user=USER)

MINUTE = Limits(60)

Sandboxed = Callable[..., ContainedEnd]


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    """Skip, or fail in CI, if this machine has no namespaces for its users."""
    found = find_layers(Cluster({"sandbox_user": str(NUMBER)}, {}), None, unsafe_execution=True)
    if not found.guard:
        skip_or_fail(found.missing)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with an empty one for output."""
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def sandboxed(directory: Path) -> Sandboxed:
    """Return a function that runs a program, by default in namespaces and without a container."""

    def run(
        *argv: str,
        layers: Layers = BARE,
        limits: Limits = MINUTE,
        stop: Callable[[], bool] = lambda: False,
        **fields: object,
    ) -> ContainedEnd:
        contained = Contained(
            argv=argv, image=None, inputs={}, output=directory / "out", env={}, limits=limits
        )._replace(**{"guard": False, **fields})
        return run_contained(contained, layers, directory / "log", stop=stop)

    return run


def python(code: str) -> tuple[str, ...]:
    """Return the command of a program in a Python that the sandbox's user can reach."""
    return "/usr/bin/python3", "-I", "-c", code
