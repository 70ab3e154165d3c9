"""oe-run-task with rows of programs under signals and kills: nothing is left, nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from support.toy_rows import (
    PATIENCE,
    ToyModel,
    evaluate,
    manifest,
    messages,
    processes,
    records,
    temporary,
    wait_for,
    worker,
)

pytestmark = pytest.mark.slow


def leftovers(home: Path) -> list[str]:
    """Return what attempts have left: directories of their own, and processes."""
    attempts = [str(path) for path in (home / "out").glob("stages/*/.*")]
    return [*attempts, *map(str, temporary(home).iterdir()), *processes(home)]


STAGES = ("generate", "evaluate")
# The stage that a signal interrupts, the exit status, and whether all processes get the signal, as
# from Ctrl-C and scancel.
ENDS = {
    signal.SIGUSR1: ("evaluate", 75, False),
    signal.SIGTERM: ("generate", 75, True),
    signal.SIGHUP: ("evaluate", 75, False),
    signal.SIGINT: ("generate", 130, True),
}


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_ends_the_program_and_another_worker_goes_on(
    model: ToyModel, tmp_path: Path, number: signal.Signals
) -> None:
    step, status, to_all = ENDS[number]
    model.set_faults(f"{step} hang")
    rows = manifest((model, "two"))
    with worker(rows, home=tmp_path) as process:
        wait_for(lambda: "hangs" in messages(tmp_path))
        assert len(processes(tmp_path)) >= 3
        started = time.monotonic()
        (os.killpg if to_all else os.kill)(process.pid, number)
        assert process.wait(PATIENCE) == status
        # USR1 leaves the time that the job has: 20 seconds without a run.
        assert time.monotonic() - started < 30
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "out" / "failures").exists()
    model.set_faults()
    assert "1 rows evaluated" in evaluate(rows, home=tmp_path)
    # The stage that was interrupted begins anew; the one before it does not.
    twice = {"generate": ["generate", *STAGES], "evaluate": [*STAGES, "evaluate"]}
    assert model.steps() == twice[step]


@pytest.mark.parametrize("step", ["evaluate", "both"])
def test_a_killed_worker_takes_its_program_along(
    model: ToyModel, tmp_path: Path, step: str
) -> None:
    model.set_faults(f"{step} stubborn")
    rows = manifest((model, "one" if step == "both" else "two"))
    with worker(rows, home=tmp_path) as process:
        wait_for(lambda: "hangs" in messages(tmp_path))
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        wait_for(lambda: not processes(tmp_path))
    # What it has left is removed by the next worker.
    assert len(leftovers(tmp_path)) == 2
    model.set_faults()
    assert "1 rows evaluated" in evaluate(rows, home=tmp_path)
    assert leftovers(tmp_path) == []
    assert model.steps().count("generate") == {"evaluate": 1, "both": 0}[step]


def test_a_second_sigint_does_not_wait_for_a_stubborn_program(
    model: ToyModel, tmp_path: Path
) -> None:
    model.set_faults("generate stubborn")
    with worker(manifest((model, "two")), home=tmp_path) as process:
        wait_for(lambda: "hangs" in messages(tmp_path))
        started = time.monotonic()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.6)
            assert time.monotonic() - started < 6
        assert process.wait() == 130
    assert leftovers(tmp_path) == []


def test_a_program_that_hangs_fails_its_row_alone(model: ToyModel, tmp_path: Path) -> None:
    model.set_faults("generate stubborn")
    other = ToyModel(tmp_path / "models" / "other")
    rows = manifest((model, "two"), (other, "two"), row_timeout="0:03")
    told = evaluate(rows, home=tmp_path, status=1)
    assert "1 rows evaluated, 0 already had results, 1 failed" in told
    failure = records(tmp_path / "out", "failures")["two"]["failure"]
    assert (failure["class"], failure["stage"]) == ("RowTimeout", "generate")
    assert failure["message"].startswith("it took longer than 3 s, and its program had not ended")
    assert leftovers(tmp_path) == []


def test_of_two_workers_with_the_same_row_the_first_keeps_its_own(
    model: ToyModel, tmp_path: Path
) -> None:
    model.set_faults("generate wait")
    rows = manifest((model, "two"))
    with worker(rows, home=tmp_path) as one, worker(rows, home=tmp_path) as other:
        wait_for(lambda: model.steps() == ["generate", "generate"])
        model.set_faults()
        model.go()
        assert (one.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0)
    assert leftovers(tmp_path) == []
    assert len(records(tmp_path / "out")) == 1
    assert len(list(tmp_path.glob("out/stages/*/*"))) == 1
