"""A run directory that was moved or copied continues in its own place, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.processes import Run
from support.submitting import FakeSlurm, fake_worker, finish, jobs

# Writes where it runs, and that no row has a result.
WORKER = 'echo "$5" >> "$3"/evaluated'


@pytest.fixture
def moved(tmp_path: Path, rendered: dict[str, Any]) -> Path:
    fake_worker(tmp_path, WORKER)
    target = tmp_path / "elsewhere" / "100% moved"
    target.parent.mkdir()
    Path(rendered["run_dir"]).rename(target)
    return target


def test_a_moved_run_is_evaluated_where_it_is(run: Run, moved: Path) -> None:
    done = run("oe-submit", "--executor=local", moved, status=1)
    assert (moved / "evaluated").read_text() == "0\n1\n2\n3\n"
    assert (moved / "slurm_logs" / "local_3.log").exists()
    assert json.loads(done.stdout)["run_dir"] == str(moved)
    assert json.loads((moved / "run.json").read_text())["run_dir"] == str(moved)


def test_a_copy_leaves_the_original_alone(
    run: Run, tmp_path: Path, rendered: dict[str, Any], slurm: FakeSlurm
) -> None:
    fake_worker(tmp_path, WORKER)
    original, copy = Path(rendered["run_dir"]), tmp_path / "copy"
    run("oe-submit", original, env=slurm.env)
    finish(rendered, 0)
    shutil.copytree(original, copy)
    before = sorted(original.rglob("*"))
    run("oe-submit", "--executor=local", copy, status=1)
    assert (copy / "evaluated").read_text() == "1\n2\n3\n"
    assert sorted(original.rglob("*")) == before
    # The jobs of the original are not the copy's.
    assert [job["executor"] for job in jobs({"run_dir": str(copy)})] == ["local"]
    assert len(jobs(rendered)) == 1


def test_slurm_gets_the_present_place_of_a_run(run: Run, moved: Path, slurm: FakeSlurm) -> None:
    run("oe-submit", moved, env=slurm.env)
    arguments = (slurm.directory / "sbatch.arguments").read_text().splitlines()
    logs = str(moved / "slurm_logs").replace("%", "%%")
    assert f"--output={logs}/%A_%a.log" in arguments
    digest = json.loads((moved / "run.json").read_text())["worker"]["sha256"]
    assert arguments[-4:] == [str(moved / "submit_evals.sbatch"), "0", str(moved), digest]
    script = (moved / "submit_evals.sbatch").read_text()
    assert str(moved.parent) not in script
    assert "#SBATCH --output=slurm_logs/%A_%a.log\n" in script


def test_a_script_of_an_earlier_version_is_not_run_for_another_place(
    run: Run, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    fake_worker(tmp_path, WORKER)
    original, copy = Path(rendered["run_dir"]), tmp_path / "copy"
    script = original / "submit_evals.sbatch"
    lines = [
        f"run_dir='{original}'" if line.startswith("run_dir=") else line
        for line in script.read_text().splitlines()
    ]
    script.write_text("\n".join(lines) + "\n")
    shutil.copytree(original, copy)
    done = run("oe-submit", "--executor=local", copy, status=2)
    assert (
        f"{copy}/submit_evals.sbatch: the run was moved or copied from {original}, where its "
        f"script would continue it; to evaluate the rest here: oe-missing {copy} | oe-render"
    ) in done.stderr
    assert not (copy / "evaluated").exists()
    (tmp_path / "link").symlink_to(original)
    run("oe-submit", "--executor=local", tmp_path / "link", status=1)
    assert (original / "evaluated").exists()


def test_setup_lines_may_use_the_names_of_the_script(run: Run, tmp_path: Path) -> None:
    fake_worker(tmp_path, WORKER)
    setup = ["run_dir=/mine; cd /", "offset=7", "worker_sha256=0", "set -- 5 /mine", "element=7"]
    settings = (f"venv={tmp_path}/venv", f"eval_base_dir={tmp_path}", f"setup={json.dumps(setup)}")
    command = ("oe-render", "--cluster=slurm", *(f"--set={text}" for text in settings))
    rows = "model_path,task_path,n_shot\nacme/a,mmlu,0\n"
    directory = Path(json.loads(run(*command, stdin=rows).stdout)["run_dir"])
    run("oe-submit", "--executor=local", directory, status=1)
    assert (directory / "evaluated").read_text() == "0\n"


@pytest.mark.parametrize("setup", ["run_dir= ", "run_dir='/mine", "run_dir=/mine; cd /mine"])
@pytest.mark.parametrize("is_old", [False, True])
def test_setup_lines_are_no_place_of_a_run(
    run: Run, rendered: dict[str, Any], slurm: FakeSlurm, setup: str, *, is_old: bool
) -> None:
    directory = Path(rendered["run_dir"])
    script = directory / "submit_evals.sbatch"
    lines = [
        f"run_dir={directory}" if line.startswith("run_dir=") and is_old else line
        for line in script.read_text().splitlines()
    ]
    script.write_text("\n".join([lines[0], setup, *lines[1:]]) + "\n")
    run("oe-submit", directory, env=slurm.env)
    assert slurm.submitted() == ["0-3"]


def test_a_changed_worker_is_not_run(run: Run, tmp_path: Path, rendered: dict[str, Any]) -> None:
    fake_worker(tmp_path, WORKER)
    directory = Path(rendered["run_dir"])
    worker = directory / "oe-run-task.pyz"
    worker.write_bytes(worker.read_bytes() + b"\n")
    done = run("oe-submit", "--executor=local", directory, status=2)
    assert f"{worker}: it was changed since oe-render: its SHA-256 is " in done.stderr
    assert f"oe-missing {directory} | oe-render | oe-submit" in done.stderr
    # A job may have waited for days since oe-submit looked.
    script = directory / "submit_evals.sbatch"
    started = run(
        *("bash", script, "0", directory, json.loads(run_json(directory))["worker"]["sha256"]),
        env={"SLURM_ARRAY_TASK_ID": "0"},
        status=2,
    )
    assert f"{worker} was changed since oe-submit\n" in started.stderr
    assert not (directory / "evaluated").exists()


def run_json(directory: Path) -> str:
    return (directory / "run.json").read_text()


def test_a_copy_with_a_link_to_the_results_of_the_original_is_refused(
    run: Run, tmp_path: Path, rendered: dict[str, Any], slurm: FakeSlurm
) -> None:
    original, copy = Path(rendered["run_dir"]), tmp_path / "copy"
    shutil.copytree(original, copy)
    (copy / "results").rmdir()
    (copy / "results").symlink_to(original / "results")
    done = run("oe-submit", copy, env=slurm.env, status=2)
    assert f"these are the results of another run, {original}, which would change" in done.stderr
    assert slurm.submitted() == []
    # A directory on another file system, which belongs to no other run, is the run's own.
    (copy / "results").unlink()
    (tmp_path / "large").mkdir()
    (copy / "results").symlink_to(tmp_path / "large")
    run("oe-submit", copy, env=slurm.env)
