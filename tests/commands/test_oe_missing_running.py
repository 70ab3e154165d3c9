"""oe-missing --in: rows that are queued, running, or may be, are not missing."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from support.processes import Run, rows_of
from support.second_stages import HEADER as HEADER_OF_STAGES
from support.second_stages import generate, install_toy, render
from support.submitted_run import SubmittedRun, write_failure, write_result
from support.submitting import FakeSlurm, jobs, queue_line

PINNED = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def submitted(run: Run, slurm: FakeSlurm, tmp_path: Path) -> SubmittedRun:
    return SubmittedRun(run, slurm, tmp_path / "base")


def test_what_is_queued_or_running_is_not_missing(submitted: SubmittedRun) -> None:
    submitted.queue("PENDING", "RUNNING", "FAILED")
    found, said = submitted.missing()
    assert found == "cd"
    assert said.endswith(
        "2 of 4 rows are missing (0 of them failed); 0 have results, 2 are queued or running\n"
    )
    assert submitted.missing("--also_running")[0] == "abcd"
    # A result says more than a job that still runs, and a failure less.
    write_result(submitted.path, "b")
    write_failure(submitted.path, "a")
    assert submitted.missing("--also_running")[0] == "acd"
    assert submitted.missing("--check", status=1)[0] == "cd"
    submitted.queue(*["COMPLETED"] * 4)
    assert submitted.missing("--failed")[0] == "a"


def test_a_row_without_a_commit_is_queued_at_any_commit(submitted: SubmittedRun) -> None:
    lines = [
        f"acme/a,a,0,{commit},{shard:016x},{shard}\n"
        for shard, commit in enumerate((PINNED, PINNED[::-1]))
    ]
    header = "model_path,task_path,n_shot,model_revision,eval_id,shard\n"
    (submitted.path / "jobs.csv").write_text(header + "".join(lines))
    for states, found in (
        (("RUNNING", "COMPLETED"), "bcd"),
        (("COMPLETED", "RUNNING"), "bcd"),
        (("COMPLETED", "COMPLETED"), "abcd"),
    ):
        submitted.queue(*states)
        assert submitted.missing()[0] == found


def test_a_row_may_run_if_slurm_does_not_answer(submitted: SubmittedRun, slurm: FakeSlurm) -> None:
    slurm.says("squeue.fails", "slurm_load_jobs error: Unable to contact slurm controller")
    submitted.beat(2, ended="finished")
    found, said = submitted.missing()
    assert found == "c"
    assert "squeue failed: slurm_load_jobs error: Unable to contact slurm controller; rows" in said
    assert said.endswith("0 are queued or running, 3 may be\n")
    assert submitted.missing("--also_running")[0] == "abcd"
    # A worker that was stopped is requeued by its job.
    submitted.beat(2, ended="stopped by SIGUSR1")
    assert submitted.missing()[0] == ""
    slurm.says("squeue.fails", "error: no configuration\nfatal: no source\n")
    assert "failed: error: no configuration; fatal: no source; rows" in submitted.missing()[1]


def test_a_row_may_run_on_a_cluster_that_cannot_be_asked(submitted: SubmittedRun) -> None:
    submitted.queue()
    assert submitted.missing()[0] == "abcd"
    submitted.beat(1, ended="finished")
    found, said = submitted.missing("--set=name=other")
    assert found == "b"
    assert said.endswith("0 are queued or running, 3 may be\n")


def test_a_submission_without_a_number_may_be_in_the_queue(submitted: SubmittedRun) -> None:
    submitted.queue()
    submitted.edit(job_id=None)
    found, said = submitted.missing()
    assert (found, said.endswith("0 are queued or running, 4 may be\n")) == ("", True)


def test_a_fresh_heartbeat_counts_where_slurm_knows_nothing(submitted: SubmittedRun) -> None:
    submitted.queue("CANCELLED")
    for shard, age in ((0, 0), (1, 0), (2, 3600), (3, -3600)):
        submitted.beat(shard, age)
    # The job of shard 0 has ended, the worker of shard 2 is silent, or from before, and the clock
    # of that of shard 3 was wrong: it would be fresh for an hour.
    assert submitted.missing()[0] == "acd"


def test_slurm_may_hide_the_jobs_of_others(submitted: SubmittedRun, slurm: FakeSlurm) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a run somebody else's")
    submitted.queue()
    os.chown(submitted.path, 65534, 65534)
    assert submitted.missing()[0] == "abcd"
    slurm.says("private_data", "accounts,jobs")
    submitted.beat(3, ended="finished")
    found, said = submitted.missing()
    assert (found, said.endswith("0 are queued or running, 3 may be\n")) == ("d", True)


def test_the_lock_tells_that_oe_submit_still_runs_elements(submitted: SubmittedRun) -> None:
    submitted.queue()
    submitted.edit(executor="local", job_id=os.getpid())
    assert submitted.missing()[0] == "abcd"
    lock = submitted.path / "submit.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    submitted.beat(0, ended="finished")
    submitted.beat(1)
    # What ended in it is over, what has not begun waits for its turn.
    assert submitted.missing()[0] == "a"
    hour_ago = time.time() - 3600
    os.utime(lock, (hour_ago, hour_ago))
    assert submitted.missing()[0] == "acd"
    for pid, found in ((os.getpid(), "a"), (2**22 + 1, "acd")):
        lock.write_text(json.dumps({"host": socket.gethostname(), "pid": pid}))
        assert submitted.missing()[0] == found
    lock.write_text("{")
    assert submitted.missing()[0] == "acd"


def test_a_second_stage_in_the_queue_counts_if_there_is_something_to_evaluate(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    slurm.env |= install_toy(tmp_path / "plugin")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    rows = "".join(f"acme/{model},two,,toy\n" for model in "ab")
    settings = [f"eval_base_dir={tmp_path}", "shard_time=0", f"venvs.toy={tmp_path}/venv"]
    record = render(run, rows, slurm.env, *settings)
    run("oe-submit", record["run_dir"], env=slurm.env)
    generate(Path(record["run_dir"]), "acme/a")

    def missing(queue: str) -> list[str]:
        slurm.says("queue", queue)
        options = ("--cluster=slurm", *(f"--set={setting}" for setting in settings))
        asked = ("oe-missing", f"--in={tmp_path}", *options)
        found = run(*asked, stdin=HEADER_OF_STAGES + rows, env=slurm.env).stdout
        return [row["model_path"] for row in rows_of(found)]

    first, second = (job["comment"] for job in jobs(record))
    waits = "".join(queue_line("4712", index, comment=second) for index in "01")
    # The generation of the second model has ended, and nothing came of it.
    assert missing(waits) == ["acme/b"]
    assert missing(waits + queue_line("4711", "1", comment=first)) == []
    assert missing("") == ["acme/a", "acme/b"]
