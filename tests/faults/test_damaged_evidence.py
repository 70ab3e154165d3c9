"""Damaged heartbeats and failures cost their own information, and are named once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.processes import Run
from support.submitting import FakeSlurm, fake_worker

DAMAGED = ["{", "[]", "{}", "null", '{"attempts": null}', '{"oellm": null}', '{"attempts": [[]]}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named_once(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], content: str
) -> None:
    run_dir = Path(rendered["run_dir"])
    run("oe-submit", run_dir, env=slurm.env)
    ids = [line.split(",")[-2] for line in (run_dir / "jobs.csv").read_text().splitlines()[1:]]
    for path in (
        *(run_dir / "progress" / f"{shard}.json" for shard in (0, 1)),
        *(run_dir / "failures" / f"{ids[0]}.json", run_dir / "results" / f"{ids[1]}.json"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    done = run("oe-status", "--format=jsonl", run_dir, run_dir, env=slurm.env, status=75)
    assert len(done.stdout.splitlines()) == 16
    assert {json.loads(line)["state"] for line in done.stdout.splitlines()} == {"pending"}
    assert done.stderr.splitlines() == [
        f"oe-status: {run_dir}/progress/0.json and 1 more: damaged: "
        "what their workers did is not known",
        f"oe-status: {run_dir}/results/{ids[1]}.json: damaged: these rows have no result",
        f"oe-status: {run_dir}/failures/{ids[0]}.json: damaged: why these rows failed is not known",
    ]


def test_heartbeats_that_cannot_be_listed_stop_nothing(
    run: Run, slurm: FakeSlurm, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    run_dir = Path(rendered["run_dir"])
    run("oe-submit", run_dir, env=slurm.env)
    (run_dir / "progress").write_text("")
    slurm.says("queue", "")
    done = run("oe-status", run_dir, env=slurm.env, status=1)
    assert f"{run_dir}/progress: Not a directory: what workers do is not known" in done.stderr
    run("oe-submit", run_dir, env=slurm.env)
    assert slurm.submitted() == ["0-3", "0-3"]
    fake_worker(tmp_path, "exit 1")
    done = run("oe-submit", "--executor=local", run_dir, status=3)
    assert "2 elements ended before their first row was loaded" in done.stderr
