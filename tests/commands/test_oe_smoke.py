"""oe-smoke: one document of each row, with results that are nobody else's."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.processes import BIN, DEMO_TASKS, Run, clean_environment, rows_of
from support.submitting import HEADER, FakeSlurm, until_it_says
from support.waiting import wait_until


def smoke(run: Run, manifest: str, base: Path, *options: str, **how: Any) -> list[dict[str, Any]]:
    """Return the records of oe-smoke for rows on this machine."""
    done = run("oe-smoke", *options, stdin=manifest, env=environment(base), **how)
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment(base: Path) -> dict[str, str]:
    return {"OELLM_CLUSTER": "local", "EVAL_OUTPUT_DIR": str(base), "OELLM_ALLOW_CPU": "true"}


@pytest.mark.slow
def test_each_row_is_tried_and_nothing_stays(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "evals"
    rows = ("--models", tiny_model, "--tasks=oellm_choice,oellm_copy", "--n_shot=0,2")
    options = ("--include_path", DEMO_TASKS, "--batch_size=4", "--limit=7", "--log_samples=true")
    manifest = run("oe-manifest", *rows, *options).stdout
    records = smoke(run, manifest, base)
    assert [record["status"] for record in records] == ["ok"] * 4
    assert [(r["task_path"], r["n_shot"]) for r in records] == [
        *(("oellm_choice", 0), ("oellm_choice", 2), ("oellm_copy", 0), ("oellm_copy", 2))
    ]
    explained = run("oe-render", "--explain", stdin=manifest, env=environment(base)).stdout
    ours = {row["eval_id"] for row in rows_of(explained)}
    assert len(ours) == 4
    assert not ours & {record["eval_id"] for record in records}
    # The user's own directory is all that is left.
    assert [path for path in base.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_row_that_fails_is_told_with_its_log(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "evals"
    shutil.copytree(DEMO_TASKS, tmp_path / "tasks")
    task = tmp_path / "tasks" / "oellm_copy.yaml"
    task.write_text(task.read_text().replace("{{words}}\\nAnswer", "{{words.none.none}}\\nAnswer"))
    manifest = (
        "model_path,task_path,n_shot,include_path,batch_size\n"
        f"{tiny_model},oellm_choice,0,{DEMO_TASKS},4\n"
        f"{tiny_model},oellm_copy,0,{tmp_path}/tasks,4\n"
    )
    records = smoke(run, manifest, base, status=1)
    assert {record["task_path"]: record["status"] for record in records} == {
        "oellm_choice": "ok",
        "oellm_copy": "failed",
    }
    (failed,) = [record for record in records if record["status"] == "failed"]
    assert "UndefinedError" in failed["reason"]
    log = Path(failed["log"])
    assert "oellm_copy n_shot=0 failed" in log.read_text()
    assert log.is_relative_to(base)
    # No times are taken from the row that has a score.
    plan = run("oe-render", "--explain", stdin=manifest, env=environment(base))
    assert {row["basis"] for row in rows_of(plan.stdout)} == {"guessed"}


def test_wrong_input_and_none(run: Run, tmp_path: Path) -> None:
    env = environment(tmp_path)
    done = run("oe-smoke", stdin="model_path,task_path\nm,t\n", env=env, status=2)
    assert "n_shot" in done.stderr
    done = run("oe-smoke", stdin="model_path,task_path,n_shot\n", env=env)
    assert (done.stdout, "all 0 rows are ok" in done.stderr) == ("", True)
    assert "--executor: expected" in run("oe-smoke", "--executor=x", status=2).stderr


def test_jobs_are_cancelled_if_it_is_stopped(run: Run, tmp_path: Path, slurm: FakeSlurm) -> None:
    env = {**slurm.env, "OELLM_CLUSTER": "slurm", "EVAL_BASE_DIR": str(tmp_path / "base")}
    env |= {"OELLM_CACHE_DIR": str(tmp_path / "no-index"), "OELLM_VENV": str(idle_venv())}
    process = subprocess.Popen(
        [BIN / "oe-smoke"],
        env=clean_environment(tmp_path / "home", env),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(HEADER + "acme/a,t,0\nacme/b,t,0\n")
    process.stdin.close()
    wait_until((slurm.directory / "queue").exists, process=process)
    # oe-submit notes the number of the job before it can cancel it.
    until_it_says(process, "elements: ")
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert slurm.queue() == []


def test_jobs_are_cancelled_if_not_all_can_be_submitted(
    run: Run, tmp_path: Path, slurm: FakeSlurm
) -> None:
    env = {**slurm.env, "OELLM_CLUSTER": "slurm", "EVAL_BASE_DIR": str(tmp_path / "base")}
    env |= {"OELLM_CACHE_DIR": str(tmp_path / "no-index"), "OELLM_VENV": str(idle_venv())}
    submit = tmp_path / "bin" / "oe-submit"
    submit.parent.mkdir()
    # Submits, but ends as if sbatch had then refused the next array.
    submit.write_text(
        f'#!/bin/bash\n[[ $1 != --wait* ]] && exec {BIN}/oe-submit "$@"\n{BIN}/oe-submit\nexit 1\n'
    )
    submit.chmod(0o755)
    # Commands are looked for beside this one.
    command = tmp_path / "bin" / "oe-smoke"
    command.symlink_to(BIN / "oe-smoke")
    done = run(command, stdin=HEADER + "acme/a,t,0\nacme/b,t,0\n", env=env, status=1)
    assert "the run stays: " in done.stderr
    assert slurm.submitted()
    assert slurm.queue() == []


@pytest.mark.parametrize(
    ("fakes", "status", "told"),
    [
        ({"oe-status": "exit 2"}, 2, "the run stays: "),
        ({"oe-status": "exit 0"}, 1, "oe-status has told of 0 of 2 rows; the run stays: "),
        ({"oe-render": "exit 1"}, 1, ""),
    ],
)
def test_no_row_is_ok_unless_it_is_known(
    run: Run, tmp_path: Path, fakes: dict[str, str], status: int, told: str
) -> None:
    (tmp_path / "bin").mkdir()
    for name, script in {"oe-submit": "cat", **fakes}.items():
        fake = tmp_path / "bin" / name
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
    # Commands are looked for beside this one.
    command = tmp_path / "bin" / "oe-smoke"
    command.symlink_to(BIN / "oe-smoke")
    env = environment(tmp_path) | {"OELLM_VENV": str(idle_venv())}
    env["OELLM_CACHE_DIR"] = str(tmp_path / "no-index")
    done = run(command, stdin=HEADER + "acme/a,t,0\nacme/b,t,0\n", env=env, status=status)
    assert done.stdout == ""
    assert told in done.stderr
    assert "rows are ok" not in done.stderr
    assert bool(list(tmp_path.glob("*/smoke/*/run.json"))) == bool(told)
