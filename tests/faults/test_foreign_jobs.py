"""A job is the run's only by its number and its comment: Slurm gives numbers again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.processes import Run, rows_of
from support.submitted_run import SubmittedRun
from support.submitting import FakeSlurm, jobs, queue_line


def states(run: Run, slurm: FakeSlurm, run_dir: str | Path, status: int) -> list[str]:
    done = run("oe-status", run_dir, env=slurm.env, status=status)
    return [row["state"] for row in rows_of(done.stdout)]


def test_a_job_of_another_with_the_number_of_ours_is_not_ours(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run_dir = rendered["run_dir"]
    run("oe-submit", run_dir, env=slurm.env)
    slurm.submitted()
    slurm.has_queued(*(f"4711 {index} acme normal another's" for index in range(4)))
    assert states(run, slurm, run_dir, 1) == ["lost"] * 8
    # Its accounting is not that of our job, either.
    slurm.says("queue", "")
    line = "4711_0|COMPLETED|0:0|n1|{0}|{0}|{0}|{1}\n"
    for when, comment in (("2020-01-01T00:00:00", ""), ("2099-01-01T00:00:00", "another's")):
        slurm.says("accounts", line.format(when, comment))
        done = run("oe-status", run_dir, env=slurm.env, status=1)
        assert "its job is no longer known to Slurm" in done.stdout
        assert "ended normally" not in done.stdout
    run("oe-submit", run_dir, env=slurm.env)
    assert slurm.submitted() == ["0-3"]


def test_a_queue_with_more_elements_than_the_run_does_not_make_counts_negative(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    slurm.submitted()
    (job,) = jobs(rendered)
    lines = [queue_line("4711", str(index), comment=job["comment"]) for index in range(1000)]
    slurm.says("queue", "".join(lines))
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert done.stderr == "oe-submit: elements: 4 already in the queue\n"


def test_a_comment_that_the_site_has_added_to_is_still_ours(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    (job,) = jobs(rendered)
    slurm.has_queued(*(f"4711 {n} acme normal {job['comment']},cost=3" for n in range(4)))
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert done.stderr == "oe-submit: elements: 4 already in the queue\n"


@pytest.mark.parametrize("comment", ["charged to acme", "(null)"])
def test_a_site_that_replaces_comments_does_not_make_us_submit_again(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], comment: str
) -> None:
    slurm.says("sbatch.comment", comment)
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert [job["comment"] for job in jobs(rendered)] == [comment]
    assert slurm.submitted() == ["0-3"]
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert done.stderr == "oe-submit: elements: 4 already in the queue\n"
    assert states(run, slurm, rendered["run_dir"], 75) == ["pending"] * 8


def test_oe_missing_does_not_take_a_job_of_another_for_a_running_row(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    submitted = SubmittedRun(run, slurm, tmp_path / "base")
    submitted.queue("RUNNING", "RUNNING")
    assert submitted.missing()[0] == "cd"
    queue = (slurm.directory / "queue").read_text()
    slurm.says("queue", queue.replace("oellm:", "theirs:"))
    assert submitted.missing()[0] == "abcd"


def test_a_slurm_of_another_name_says_nothing_of_a_run(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    submitted = SubmittedRun(run, slurm, tmp_path / "base")
    assert submitted.record["jobs"][0]["slurm"] == "acme-cluster"
    submitted.queue()
    assert submitted.missing()[0] == "abcd"
    # Two clusters with settings of one name, and one file system.
    submitted.edit(slurm="the-other")
    found, said = submitted.missing()
    assert (found, said.endswith("0 are queued or running, 4 may be\n")) == ("", True)


def test_a_damaged_submission_is_named(run: Run, slurm: FakeSlurm, tmp_path: Path) -> None:
    submitted = SubmittedRun(run, slurm, tmp_path / "base")
    for changed in ({"comment": 7}, {"cluster": ["a"]}, {"command": [1]}, {"cancelled": ["x"]}):
        before = submitted.record
        submitted.edit(**changed)
        for command in ("oe-status", "oe-submit"):
            done = run(command, submitted.path, env=slurm.env, status=2)
            assert done.stderr.startswith(f"{command}: {submitted.path}/run.json: jobs: damaged: ")
        (submitted.path / "run.json").write_text(json.dumps(before))
