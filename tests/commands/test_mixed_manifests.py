"""Manifests of oellm-eval, with rows of frameworks that oellm cannot run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from support.model_directories import write_model
from support.processes import Run

HEADER = "model_path,task_path,n_shot,eval_suite\r\n"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a manifest with Windows line ends and the rows of two frameworks."""
    model = write_model(tmp_path / "iter_0001000")
    path = tmp_path / "mixed.csv"
    rows = [
        f"{model},arc_easy,10,lm-eval-harness",
        f"{model},AIME24,0,evalchemy",
        f"{model},arc_easy,0,lm-eval-harness",
    ]
    path.write_text(HEADER + "".join(f"{row}\r\n" for row in rows), newline="")
    return path


def test_what_cannot_be_run_is_an_error_or_left_out_with_status_1(
    run: Run, mixed: Path, tmp_path: Path
) -> None:
    command = (
        *("oe-render", "--cluster=local", "--set=executor=local", "--set=venv="),
        *(f"--run_dir={tmp_path / 'run'}", mixed),
    )
    why = "oellm does not run evalchemy, it only reads its results"
    done = run(*command, status=2)
    refused = f"oe-render: {mixed}:3: {why}; --skip_unsupported leaves these rows out\n"
    assert (done.stdout, done.stderr) == ("", refused)
    assert not (tmp_path / "run").exists()
    done = run(*command, "--skip_unsupported", status=1)
    assert f"oe-render: {mixed}:3: eval_suite: {why}; left out: 1 row\n" in done.stderr
    assert json.loads(done.stdout)["n_rows"] == 2
    with open(tmp_path / "run" / "jobs.csv", newline="") as stream:
        assert [row["n_shot"] for row in csv.DictReader(stream)] == ["10", "0"]


def test_a_manifest_without_a_row_that_can_be_run_is_an_error(run: Run, mixed: Path) -> None:
    lines = mixed.read_text().splitlines()
    text = "\n".join([lines[0], lines[2]]) + "\n"
    for command in ("oe-render", "oe-fetch", "oe-run-task"):
        options = ["--cluster=local"] if command != "oe-run-task" else []
        done = run(command, *options, stdin=text, status=2)
        assert done.stdout == ""
        assert "stdin:2: eval_suite: no row can be run: oellm does not run evalchemy" in done.stderr


def test_a_suite_with_tasks_that_cannot_be_run_gives_the_others(run: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "iter_0001000")
    command = ("oe-manifest", f"--models={model}", "--task_groups=reasoning")
    tasks = "GPQADiamond, MATH500, LiveCodeBench, HumanEval, AIME24, AIME25, AMC23"
    why = f"oellm does not run evalchemy, it only reads its results: {tasks}"
    done = run(*command, status=2)
    refused = f"oe-manifest: {why}; --skip_unsupported leaves these tasks out\n"
    assert (done.stdout, done.stderr) == ("", refused)
    done = run(*command, "--skip_unsupported", status=1)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["task_path"] for row in rows] == ["gsm8k", "ifeval", "mbpp"]
    assert done.stderr == f"oe-manifest: left out: {why}\n"
    alone = ("--tasks=AIME24", "--eval_suite=evalchemy", "--skip_unsupported")
    done = run(*command[:2], *alone, status=2)
    assert "oellm does not run evalchemy, it only reads its results: AIME24\n" in done.stderr


def test_oe_fetch_leaves_out_what_cannot_be_run_as_what_cannot_be_fetched(
    run: Run, mixed: Path
) -> None:
    lines = mixed.read_text().splitlines()
    broken = lines[1].replace("arc_easy", "no_such_task")
    text = "\n".join([lines[0], broken, lines[2]]) + "\n"
    done = run("oe-fetch", "--cluster=local", "--set=venv=", stdin=text, status=1)
    assert "stdin:3: eval_suite: oellm does not run evalchemy" in done.stderr
