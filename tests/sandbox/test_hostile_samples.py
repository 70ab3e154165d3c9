"""Hostile samples without a container: namespaces and the guard alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.conftest import BARE
from support.hostile_runs import HostileRuns, hostile_runs
from support.hostile_samples import NAMES

# Programs whose attack soon works on an evaluator whose samples are not isolated from it.
REAL = ("descriptors", "manager", "namespaces")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[HostileRuns]:
    with hostile_runs(tmp_path) as made:
        yield made


def test_all_at_once_are_contained(runs: HostileRuns) -> None:
    runs.check(NAMES, BARE, None)


def test_the_programs_do_harm_without_the_guard(runs: HostileRuns) -> None:
    end, results = runs.run({name: runs.programs[name] for name in REAL}, BARE, None, guard=False)
    assert end.status == 0
    assert results == dict.fromkeys(REAL, "passed")
    end, _ = runs.run({"kill_parent": runs.programs["kill_parent"]}, BARE, None, guard=False)
    assert end.reason == "it ended with status 137"


def test_an_evaluator_whose_samples_cannot_be_isolated_has_no_result(
    runs: HostileRuns, tmp_path: Path
) -> None:
    text = runs.evaluator.read_text().replace("from __future__ import annotations", "")
    broken = tmp_path / "broken.py"
    broken.write_text(f"import os\nos.environ['OELLM_GUARD_HIDDEN'] = ''\n{text}")
    runs.evaluator = broken
    end, results = runs.run({"right": "pass"}, BARE, None)
    assert end.status == -1
    assert "the guard could not isolate a sample: error" in end.reason
    assert results == {}


def test_an_evaluator_without_samples_has_no_result(runs: HostileRuns) -> None:
    end, results = runs.run({}, BARE, None)
    assert (end.status, results) == (-1, {})
    assert "the guard has isolated no sample" in end.reason


def test_what_a_sample_sends_is_checked(runs: HostileRuns) -> None:
    # A stand-in's pipe is the one way out of a sample.
    forged = "import os\npipe = [n for n in range(3, 99) if os.path.exists(f'/proc/self/fd/{n}')]\n"
    lines = (
        *("", "x", "[]", "[0]", "{}", "[1, null, 1]", "[-1, null, 1]", "[true, null, 1]"),
        *('["0", null, 1]', "[0, {}, 1]", "[0, 7, 1]", "[" * 5000),
    )
    samples = {
        str(number): f"{forged}os.write(pipe[0], {line!r}.encode())\nos._exit(0)"
        for number, line in enumerate([*(f"{line}\n" for line in lines), '[0, null, "no end"]'])
    }
    much = f"{forged}while True: os.write(pipe[0], b'x' * 100_000)"
    end, results = runs.run({**samples, "much": much, "right": "pass"}, BARE, None)
    assert end.status == 0
    assert results.pop("right") == "passed"
    assert set(results.values()) == {"timed out"}
