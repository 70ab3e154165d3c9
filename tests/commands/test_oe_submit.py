"""oe-submit: what it submits to Slurm, what it does not, and how it waits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.processes import Run, clean_environment
from support.submitting import HEADER, FakeSlurm, finish, jobs


def test_all_shards_are_submitted_and_the_job_id_is_recorded(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("sbatch.answer", "Welcome to the cluster!\n4711;main\n")
    done = run("oe-submit", stdin=json.dumps(rendered), env=slurm.env)
    record = json.loads(done.stdout)
    assert record == json.loads((Path(rendered["run_dir"]) / "run.json").read_text())
    (job,) = record["jobs"]
    assert (job["executor"], job["job_id"], job["elements"]) == ("slurm", 4711, [0, 1, 2, 3])
    name = Path(rendered["run_dir"]).name
    assert re.fullmatch(rf"oellm:{name}:\d+-[0-9a-f]{{8}}", job["comment"])
    assert job["command"] == [
        *("sbatch", "--parsable", "--array=0-3", f"--comment={job['comment']}"),
        f"--output={rendered['run_dir']}/slurm_logs/%A_%a.log",
        *(f"{rendered['run_dir']}/submit_evals.sbatch", "0", rendered["run_dir"]),
        rendered["worker"]["sha256"],
    ]
    assert slurm.submitted() == ["0-3"]


def test_the_users_comment_comes_before_that_of_the_submission(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    settings = [
        f"--set=eval_base_dir={tmp_path}",
        f"--set=venv={idle_venv()}",
        "--sbatch=comment=for ada",
    ]
    record = run("oe-render", "--cluster=slurm", *settings, stdin=HEADER + "acme/m,t,0\n").stdout
    run("oe-submit", stdin=record, env=slurm.env)
    (job,) = jobs(json.loads(record))
    assert job["comment"].startswith("for ada oellm:")
    assert f"--comment={job['comment']}" in job["command"]


def test_only_shards_without_results_that_are_not_queued_are_submitted(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    directory = rendered["run_dir"]
    run("oe-submit", directory, env=slurm.env)
    slurm.submitted()
    finish(rendered, 0)
    # Element 1 of this run is queued. The other two are not ours: one is no array.
    (job,) = jobs(rendered)
    slurm.has_queued(f"4711 1 acme normal {job['comment']}", "99 2", "100 N/A")
    done = run("oe-submit", directory, env=slurm.env)
    assert slurm.submitted() == ["2-3"]
    assert "elements: 2 submitted, 1 already in the queue, 1 finished\n" in done.stderr
    finish(rendered, 1, 2, 3)
    done = run("oe-submit", directory, env=slurm.env)
    assert slurm.submitted() == []
    assert "all 8 rows have results" in done.stderr


def test_a_damaged_result_counts_as_missing(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    finish(rendered, 0, 1, 2, 3)
    victims = sorted((Path(rendered["run_dir"]) / "results").iterdir())
    jobs = (Path(rendered["run_dir"]) / "jobs.csv").read_text()
    victims[0].write_text(victims[0].read_text()[:-20])
    victims[1].write_text(victims[1].read_text().replace('"value": 1', '"value": NaN'))
    shards = {
        line.rpartition(",")[2]
        for line in jobs.splitlines()
        if any(victim.stem in line for victim in victims[:2])
    }
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() in (["-".join(sorted(shards))], [",".join(sorted(shards))])


@pytest.mark.slow
def test_the_queue_limit_is_kept_and_the_rest_is_reported(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    rows = "".join(f"acme/m{model},t,0\n" for model in range(4))
    settings = ["--set=queue_limit=4", "--set=concurrency=2", f"--set=venv={idle_venv()}"]
    settings.append("--set=shard_time=0")
    record = json.loads(
        run(
            *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}", *settings),
            stdin=HEADER + rows,
        ).stdout
    )
    slurm.has_queued("5 N/A")
    done = run("oe-submit", record["run_dir"], env=slurm.env)
    assert slurm.submitted() == ["0-2%2"]
    assert "elements: 3 submitted, 1 waiting for room (queue_limit 4); oe-submit " in done.stderr
    slurm.has_queued(*(f"5 {index}" for index in range(9)))
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert slurm.submitted() == []


def test_an_sbatch_error_is_shown_in_its_own_words(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("sbatch.fails", "sbatch: error: Batch job submission failed: Invalid qos\n")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert done.stderr == (
        "oe-submit: sbatch failed: sbatch: error: Batch job submission failed: Invalid qos; "
        f"the run has qos=; to change that: oe-missing {rendered['run_dir']} | "
        "oe-render --set=qos=… | oe-submit\n"
    )
    assert done.stdout == ""
    assert jobs(rendered) == []


def test_a_failed_or_unreadable_squeue_is_never_an_empty_queue(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("queue", "JOBID ELEMENT\n")
    babbling = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "expected a job's fields, got 'JOBID ELEMENT'" in babbling.stderr
    slurm.says("squeue.fails", "squeue: error: Invalid user: ada\n")
    failing = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "squeue failed: squeue: error: Invalid user: ada" in failing.stderr
    assert slurm.submitted() == []


def test_without_slurm_the_status_is_3(run: Run, tmp_path: Path, rendered: dict[str, Any]) -> None:
    venv = Path(clean_environment(tmp_path)["PATH"].split(":")[0])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(venv / "python3")
    done = run(
        *(venv / "oe-submit", rendered["run_dir"]), env={"PATH": str(tmp_path / "bin")}, status=3
    )
    assert done.stderr == "oe-submit: squeue is not on PATH: is this a Slurm login node?\n"


def test_the_submitting_shell_does_not_shape_the_job(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    leaks = {
        "SBATCH_PARTITION": "debug",
        "SBATCH_EXPORT": "ALL",
        "SQUEUE_FORMAT": "%i",
        "SLURM_MEM_PER_CPU": "1",
    }
    run("oe-submit", rendered["run_dir"], env={**slurm.env, **leaks, "SLURM_CONF": "/c"})
    seen = (slurm.directory / "sbatch.environment").read_text()
    assert not any(f"{name}=" in seen for name in leaks)
    assert "SLURM_CONF=/c" in seen
    assert (
        "#SBATCH --export=NONE\n" in (Path(rendered["run_dir"]) / "submit_evals.sbatch").read_text()
    )


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "stdin: expected a run object, got nothing: did the command before fail?"),
        ('{"run_dir": \n', "stdin:2:1: expected a run object in JSON: "),
        ("[1]", "stdin: expected a run object"),
        ("{}", "stdin: expected a run object with the key 'schema_version'"),
    ],
)
def test_bad_run_object_is_named(run: Run, stdin: str, message: str) -> None:
    done = run("oe-submit", stdin=stdin, status=2)
    assert done.stderr.startswith(f"oe-submit: {message}")


def test_bad_run_directory_is_named(run: Run, tmp_path: Path) -> None:
    done = run("oe-submit", tmp_path, status=2)
    assert done.stderr == f"oe-submit: {tmp_path}: not a run directory: run.json is missing\n"
    (tmp_path / "run.json").write_text('{"schema_version": 1,')
    done = run("oe-submit", tmp_path, status=2)
    assert done.stderr.startswith(f"oe-submit: {tmp_path}/run.json: expected JSON: ")
