"""How soon oe-submit --wait notices that a run is over, and how often it asks squeue for that."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.processes import ROOT, Run
from support.submitted_run import SubmittedRun, write_result
from support.submitting import FakeSlurm, waiting
from support.waiting import wait_until


@pytest.mark.slow
def test_the_end_of_workers_is_noticed_in_seconds_and_squeue_is_not_asked_all_the_time(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    calls, tool = tmp_path / "calls", tmp_path / "bin" / "squeue"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho >>"{calls}"\nexec "{ROOT}/tests/fake_slurm/squeue" "$@"\n')
    tool.chmod(0o755)
    made = SubmittedRun(run, slurm, tmp_path / "base")
    slurm.env["PATH"] = f"{tool.parent}:{slurm.env['PATH']}"
    calls.touch()

    def count() -> int:
        return len(calls.read_text())

    for shard in range(4):
        # Of another job, which says nothing of this one.
        made.beat(shard, ended="finished", attempts=[], job="1_0")
    began = time.monotonic()
    process = waiting(tmp_path, slurm, made.record)
    wait_until(lambda: time.monotonic() - began > 36, process=process)
    # In 36 s the checks come 2 s apart at first, and 7 s in the end.
    before = count()
    assert before < 15
    wait_until(lambda: count() > before, process=process)
    for shard in range(4):
        made.beat(shard, ended="finished")
    before, ended = count(), time.monotonic()
    wait_until(lambda: count() > before, process=process)
    # The time that has gone by alone would have made it wait at least this long.
    assert time.monotonic() - ended < 36 / 5 * 0.8
    # The jobs stay in the queue although their workers have ended.
    time.sleep(6)
    assert count() <= before + 5
    for task in "abcd":
        write_result(made.path, task)
    slurm.says("queue", "")
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0
    assert f"4 of 4 rows have results: {made.path}\n" in said
