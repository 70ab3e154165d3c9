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


def test_what_can_be_run_is_rendered_and_the_rest_named(
    run: Run, mixed: Path, tmp_path: Path
) -> None:
    done = run(
        *("oe-render", "--cluster=local", "--set=executor=local", "--set=venv="),
        *(f"--run_dir={tmp_path / 'run'}", mixed),
    )
    named = f"{mixed}:3: eval_suite: oellm does not run evalchemy, it only reads its results"
    assert f"oe-render: {named}; left out: 1 row\n" in done.stderr
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
