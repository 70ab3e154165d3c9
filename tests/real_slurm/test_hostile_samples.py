"""Hostile samples in a real container: contained, scored as failed, and nothing is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm.clusters.cluster import Cluster
from oellm.sandbox.contained import Layers
from oellm.sandbox.layers import find_layers
from support.hostile_runs import NUMBER, HostileRuns, hostile_runs
from support.hostile_samples import NAMES


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileRuns]:
    with hostile_runs(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture(scope="module")
def layers(image: Path) -> Layers:
    """Return the layers of this machine, which must be all."""
    found = find_layers(Cluster({"sandbox_user": str(NUMBER)}, {}), image)
    assert (str(found), found.missing) == ("container+guard", "")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_alone_is_contained(name: str, runs: HostileRuns, layers: Layers, image: Path) -> None:
    runs.check([name], layers, image)


def test_all_at_once_are_contained(runs: HostileRuns, layers: Layers, image: Path) -> None:
    runs.check(NAMES, layers, image)


def test_a_sample_that_ends_the_evaluator_costs_the_row_without_the_guard(
    runs: HostileRuns, layers: Layers, image: Path
) -> None:
    # What the guard is for: the container contains it, but all results are lost or forged.
    end, results = runs.run(
        {"kill_parent": runs.programs["kill_parent"]}, layers, image, guard=False
    )
    assert (end.reason, results) == ("it ended with status 137", {})
    forging = "import os; open('/out/metrics.json', 'w').write('{}'); os.kill(os.getppid(), 9)"
    end, results = runs.run({"forging": forging}, layers, image, guard=False)
    assert (end.reason, end.copied) == ("it ended with status 137", ())
