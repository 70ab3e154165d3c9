"""oe-submit: what is handed to Slurm, what is not, and what Slurm's trouble looks like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from processes import ROOT, Run, clean_environment

HEADER = "model_path,task_path,n_shot\n"


class FakeSlurm:
    """Executables on PATH that stand in for sbatch and squeue, and their notes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {
            "FAKE_SLURM": str(directory),
            "PATH": f"{ROOT}/tests/fake_slurm:{clean_environment(directory)['PATH']}",
        }

    def says(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def submitted(self) -> list[str]:
        """Return the array of each submission so far, and forget them."""
        path = self.directory / "sbatch.arguments"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.removeprefix("--array=") for line in lines if line.startswith("--array=")]


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    directory = tmp_path / "fake-slurm"
    directory.mkdir()
    return FakeSlurm(directory)


@pytest.fixture
def rendered(run: Run, tmp_path: Path) -> dict[str, Any]:
    """Render a run of four shards with two rows each; its worker is a script of the test."""
    rows = "".join(f"acme/m{model},t{task},0\n" for model in range(4) for task in range(2))
    settings = [f"--set=eval_base_dir={tmp_path}/base", f"--set=venv={tmp_path}/venv"]
    done = run("oe-render", "--cluster=slurm", *settings, stdin=HEADER + rows)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def finish(record: dict[str, Any], *shards: int) -> None:
    """Write a valid result for each row of some shards, as a worker would."""
    path = Path(record["run_dir"])
    for line in (path / "jobs.csv").read_text().splitlines()[1:]:
        *_, eval_id, shard = line.split(",")
        if int(shard) in shards:
            ours = {
                "eval_id": eval_id,
                "status": "done",
                "metrics": [{"metric": "acc", "value": 1}],
            }
            (path / "results" / f"{eval_id}.json").write_text(json.dumps({"oellm": ours}))


def fake_worker(tmp_path: Path, script: str) -> None:
    """Make the venv's Python a shell script; $3 is the run directory, $5 the shard."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)


def test_all_shards_go_to_sbatch_and_the_job_id_comes_back(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("sbatch.answer", "Welcome to the cluster!\n4711;main\n")
    done = run("oe-submit", stdin=json.dumps(rendered), env=slurm.env)
    record = json.loads(done.stdout)
    assert record == json.loads((Path(rendered["run_dir"]) / "run.json").read_text())
    (job,) = record["jobs"]
    assert (job["executor"], job["job_id"], job["elements"]) == ("slurm", 4711, [0, 1, 2, 3])
    assert job["command"] == [
        *("sbatch", "--parsable", "--array=0-3", f"{rendered['run_dir']}/submit_evals.sbatch")
    ]
    assert slurm.submitted() == ["0-3"]


def test_only_shards_without_results_that_are_not_queued_are_submitted(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    directory = rendered["run_dir"]
    run("oe-submit", directory, env=slurm.env)
    slurm.submitted()
    finish(rendered, 0)
    # Element 1 of this run waits; 2 of another job, and a job that is no array, are not ours.
    slurm.says("queue", "4711 1\n99 2\n100 N/A\n")
    done = run("oe-submit", directory, env=slurm.env)
    assert slurm.submitted() == ["2-3"]
    assert "in the queue already: shards 1\n" in done.stderr
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


def test_the_queue_limit_is_kept_and_the_rest_is_named(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    rows = "".join(f"acme/m{model},t,0\n" for model in range(4))
    settings = ["--set=queue_limit=4", "--set=concurrency=2", "--set=venv=/v"]
    record = json.loads(
        run(
            *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}", *settings),
            stdin=HEADER + rows,
        ).stdout
    )
    slurm.says("queue", "5 N/A\n")
    done = run("oe-submit", record["run_dir"], env=slurm.env)
    assert slurm.submitted() == ["0-2%2"]
    assert "no room in the queue (queue_limit 4) for shards 3; run oe-submit " in done.stderr
    slurm.says("queue", "".join(f"5 {index}\n" for index in range(9)))
    run("oe-submit", record["run_dir"], env=slurm.env)
    assert slurm.submitted() == []


def test_sbatch_refusing_is_an_error_in_its_own_words(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("sbatch.fails", "sbatch: error: invalid account or account/partition combination\n")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "oe-submit: sbatch failed: sbatch: error: invalid account" in done.stderr
    assert done.stdout == ""
    assert json.loads((Path(rendered["run_dir"]) / "run.json").read_text())["jobs"] == []


def test_squeue_failing_or_babbling_is_never_an_empty_queue(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("queue", "JOBID ELEMENT\n")
    babbling = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "expected a job id and an array index, got 'JOBID ELEMENT'" in babbling.stderr
    slurm.says("squeue.fails", "slurm_load_jobs error: Unable to contact slurm controller\n")
    failing = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "Unable to contact slurm controller" in failing.stderr
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
    leaks = {"SBATCH_PARTITION": "debug", "SQUEUE_FORMAT": "%i", "SLURM_MEM_PER_CPU": "1"}
    run("oe-submit", rendered["run_dir"], env={**slurm.env, **leaks, "SLURM_CONF": "/c"})
    seen = (slurm.directory / "sbatch.environment").read_text()
    assert not any(f"{name}=" in seen for name in leaks)
    assert "SLURM_CONF=/c" in seen


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "stdin: expected a run object, got nothing: the command before failed?"),
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
    assert done.stderr == f"oe-submit: {tmp_path}: no run directory: run.json is missing\n"
    (tmp_path / "run.json").write_text('{"schema_version": 1,')
    done = run("oe-submit", tmp_path, status=2)
    assert done.stderr.startswith(f"oe-submit: {tmp_path}/run.json: expected JSON: ")


def test_local_executor_runs_the_script_streams_progress_and_keeps_logs(
    run: Run, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    fake_worker(tmp_path, 'echo "oe-run-task: here I am" >&2; echo noise >&2; exit $(($5 % 2))')
    done = run("oe-submit", "--executor=local", "--jobs=2", rendered["run_dir"], status=1)
    for shard in range(4):
        assert f"oe-submit: shard {shard}: here I am\n" in done.stderr
        log = Path(rendered["run_dir"]) / "slurm_logs" / f"local_{shard}.log"
        assert log.read_text() == "oe-run-task: here I am\nnoise\n"
    assert "noise" not in done.stderr
    assert "shard 3: exit status 1; log: " in done.stderr
    assert "0 of 8 rows have results" in done.stderr
    assert json.loads(done.stdout)["jobs"][0]["executor"] == "local"


def test_interrupting_the_local_executor_stops_its_shards(
    tmp_path: Path, rendered: dict[str, Any]
) -> None:
    fake_worker(tmp_path, 'echo $$ >"$3/$5.pid"; echo "oe-run-task: up" >&2; exec sleep 600')
    process = subprocess.Popen(
        ["oe-submit", "--executor=local", "--jobs=2", rendered["run_dir"]],
        env=clean_environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        executable=Path(clean_environment(tmp_path)["PATH"].split(":")[0]) / "oe-submit",
    )
    assert process.stderr is not None
    for _ in range(2):
        assert "up" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    for pid_file in Path(rendered["run_dir"]).glob("*.pid"):
        pid = int(pid_file.read_text())
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and _alive(pid):
            time.sleep(0.05)
        assert not _alive(pid)
    assert len(list(Path(rendered["run_dir"]).glob("*.pid"))) == 2


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
