"""Tests on real Slurm and Apptainer: the project's dev cluster, and an image for these tests.

If the machine lacks something, the tests skip and say what. With CI=true in the environment they
fail instead, so a green run has really run them.
"""

from __future__ import annotations

import os
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.dev_cluster import DevCluster
from support.processes import ROOT, Run, runner
from support.skipping import skip_or_fail

BUILD_IMAGE = ROOT / "scripts" / "build-test-image"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and put those that need the image last.

    .ci/run builds the image while the others run.
    """
    for item in items:
        if is_here(item):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: is_here(item) and "image" in getattr(item, "fixturenames", ()))


def is_here(item: pytest.Item) -> bool:
    return Path(__file__).parent in item.path.parents


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip, or fail in CI, if scripts/install-cluster would install something."""
    check = subprocess.run(
        [ROOT / "scripts" / "install-cluster", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    reason = "; ".join((check.stdout + check.stderr).split("\n")).strip("; ")
    if check.returncode == 0 and os.geteuid() != 0:
        check.returncode, reason = 3, "only root can start the dev cluster"
    if check.returncode != 0:
        skip_or_fail(f"{reason} (scripts/install-cluster installs it)")


@pytest.fixture(scope="session")
def image_path() -> Path:
    """Return where the image of lm-eval for CPUs is, once it is built."""
    path: Path = runpy.run_path(str(BUILD_IMAGE))["image_path"]()
    return path


@pytest.fixture(scope="session")
def image(tools: None, image_path: Path) -> Path:
    """Build the image of lm-eval for CPUs, or take the image from the cache."""
    subprocess.run([BUILD_IMAGE], stdout=subprocess.DEVNULL, check=True)
    return image_path


@pytest.fixture(scope="session")
def slurm_conf(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a Slurm with two nodes, and stop it after the last test."""
    directory = tmp_path_factory.mktemp("slurm")
    dev_cluster = ROOT / "scripts" / "dev-cluster"
    subprocess.run([dev_cluster, "up", "--dir", directory], check=True)
    yield directory / "slurm.conf"
    subprocess.run([dev_cluster, "down", "--dir", directory], check=True)


@pytest.fixture
def cluster(run: Run, tmp_path: Path, slurm_conf: Path, image: Path) -> Iterator[DevCluster]:
    made = DevCluster(run, tmp_path, slurm_conf, image)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shared_cluster(
    tmp_path_factory: pytest.TempPathFactory, slurm_conf: Path, image_path: Path
) -> Iterator[DevCluster]:
    """Return the dev cluster for a module whose tests may have jobs at the same time.

    A test whose jobs use the container needs the fixture `image`, too.
    """
    directory = tmp_path_factory.mktemp("cluster")
    made = DevCluster(runner(directory), directory, slurm_conf, image_path)
    yield made
    made.stop()
