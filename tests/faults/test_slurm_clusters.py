"""Several Slurm clusters behind one login node: every call asks the one that has the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.processes import Run
from support.submitted_run import SLURM
from support.submitting import HEADER, FakeSlurm, jobs


def render(run: Run, base: Path, *options: str, **how: Any) -> dict[str, Any]:
    given = (*SLURM, f"--set=eval_base_dir={base}", f"--set=venv={idle_venv()}", *options)
    rows = "".join(f"acme/m{n},t,0\n" for n in range(4))
    record: dict[str, Any] = json.loads(run("oe-render", *given, stdin=HEADER + rows, **how).stdout)
    return record


@pytest.mark.parametrize("variable", [None, "SBATCH_CLUSTERS", "SLURM_CLUSTERS"])
def test_every_later_call_asks_the_cluster_that_has_the_job(
    run: Run, slurm: FakeSlurm, tmp_path: Path, variable: str | None
) -> None:
    options = [] if variable else ["--sbatch=clusters=cm4"]
    record = render(run, tmp_path, *options)
    run_dir = record["run_dir"]
    run("oe-submit", run_dir, env={**slurm.env, **({variable: "cm4"} if variable else {})})
    (job,) = jobs(record)
    assert job["cluster"] == "cm4"
    assert "--clusters=cm4" in job["command"]
    assert slurm.submitted() == ["0-3"]
    # From now on run.json says it, not the environment.
    again = run("oe-submit", run_dir, env=slurm.env)
    assert (again.stderr, slurm.submitted()) == (
        "oe-submit: elements: 4 already in the queue\n",
        [],
    )
    done = run("oe-status", "--format=jsonl", run_dir, env=slurm.env, status=75)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["reason"] for row in rows} == {"in the queue (Priority)"}
    assert [row["job"] for row in rows] == [f"4711_{n};cm4" for n in range(4)]
    manifest = HEADER + "".join(f"acme/m{n},t,0\n" for n in range(4))
    missing = run(
        *("oe-missing", f"--in={tmp_path}", *SLURM, f"--set=eval_base_dir={tmp_path}"),
        f"--set=venv={idle_venv()}",
        stdin=manifest,
        env=slurm.env,
    )
    assert missing.stdout == HEADER
    # The same number on the login node's own cluster is another job.
    slurm.has_queued("4711 0 acme normal another's")
    cancelled = run("oe-submit", "--cancel", run_dir, env=slurm.env)
    assert "cancelled job 4711;cm4: elements 0-3\n" in cancelled.stderr
    assert slurm.queue() == ["4711 0"]
    assert (slurm.directory / "queue.cm4").read_text() == ""


def test_a_lost_answer_is_found_on_its_cluster(run: Run, slurm: FakeSlurm, tmp_path: Path) -> None:
    record = render(run, tmp_path, "--sbatch=clusters=cm2,cm4")
    # sbatch has chosen one of them.
    slurm.says("sbatch.answer", "4711;cm4\n")
    run("oe-submit", record["run_dir"], env=slurm.env)
    (slurm.directory / "queue.cm2,cm4").rename(slurm.directory / "queue.cm4")
    path = Path(record["run_dir"]) / "run.json"
    content = json.loads(path.read_text())
    content["jobs"][0] |= {"job_id": None, "cluster": ""}
    path.write_text(json.dumps(content))
    done = run("oe-submit", record["run_dir"], env=slurm.env)
    assert "job 4711 was submitted, although its number was lost" in done.stderr
    assert [(job["job_id"], job["cluster"]) for job in jobs(record)] == [(4711, "cm4")]


def test_all_clusters_are_refused(run: Run, slurm: FakeSlurm, tmp_path: Path) -> None:
    given = (
        *SLURM,
        f"--set=eval_base_dir={tmp_path}",
        f"--set=venv={idle_venv()}",
        "--sbatch=clusters=all",
    )
    done = run("oe-render", *given, stdin=HEADER + "acme/m,t,0\n", status=2)
    assert "expected the names of clusters, got 'all'" in done.stderr
