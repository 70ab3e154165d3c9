"""What is given for a manifest and is none, or is misspelled, is named before anything runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.processes import Run

RENDER = ("oe-render", "--cluster=local", "--dry_run")
HEADER = "model_path,task_path,n_shot"


@pytest.mark.parametrize(
    ("column", "meant"),
    [("limt", "limit"), ("Limit", "limit"), ("batch-size", "batch_size"), ("dtpye", "dtype")],
)
@pytest.mark.parametrize("command", [RENDER, ("oe-missing", "--cluster=local", "--in", ".")])
def test_a_column_that_is_nearly_one_is_told(
    run: Run, column: str, meant: str, command: tuple[str, ...]
) -> None:
    done = run(*command, stdin=f"{HEADER},{column}\nacme/a,arc_easy,0,5\n", status=None)
    name = command[0]
    text = f"unknown column {column!r}, did you mean {meant}? it is passed on"
    assert f"{name}: stdin: {text}\n" in done.stderr


def test_other_columns_are_the_users_own(run: Run) -> None:
    done = run(*RENDER, stdin=f"{HEADER},experiment,mix,size\nacme/a,arc_easy,0,a,b,c\n")
    assert "unknown" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_path;task_path;n_shot\na;b;0\n", "seem to be separated by ';', not by commas"),
        ("model_path\ttask_path\tn_shot\n", r"separated by '\t'"),
        ("Model_Path,task_path,n_shot\n", "model_path: required column is missing"),
        ("Model_Path,task_path,n_shot\n", "rename 'Model_Path'"),
        ("model_path, task_path,n_shot\n", "rename ' task_path'"),
        ("model,task,n_shot\n", "rename 'model'"),
        ('{"run_dir":"/x","n_rows":3}\n', "a run object, as oe-render prints it"),
        ('{"schema_version":1,"run_dir":"/x"}\n', "oe-submit takes it"),
        ('{"model_path":"m","task":"t","metric":"acc","value":1}\n', "metric records"),
        ("eval_id,model_path,task,metric,value\n", "metric records"),
        ('{"oellm":{"row":{}}}\n', "results of oe-run-task"),
    ],
)
def test_what_is_no_manifest_is_named(run: Run, text: str, message: str) -> None:
    for command in (RENDER, ("oe-fetch", "--cluster=local"), ("oe-run-task",)):
        done = run(*command, stdin=text, status=2)
        assert done.stderr.startswith(f"{command[0]}: stdin:1: ")
        assert message in done.stderr


def test_all_errors_are_told_up_to_a_count(run: Run) -> None:
    rows = "acme/a,arc_easy,five\n,arc_easy,0\nacme/a,arc\n"
    done = run(*RENDER, stdin=f"{HEADER}\n{rows}", status=2)
    places = [line.split(": ")[1:3] for line in done.stderr.splitlines()]
    assert places[:2] == [["stdin:2", "n_shot"], ["stdin:3", "model_path"]]
    assert places[2][0] == "stdin:4"
    done = run(*RENDER, stdin=HEADER + "\nacme/a,arc_easy,five" * 30, status=2)
    assert len(done.stderr.splitlines()) == 11
    assert done.stderr.endswith("20 more errors of this kind\n")


def test_a_manifest_of_20_000_columns_takes_no_time(run: Run, tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(20_000)]
    path = tmp_path / "wide.csv"
    path.write_text(f"{HEADER},{','.join(names)}\n" + f"acme/a,arc_easy,0,{','.join(names)}\n" * 3)
    started = time.monotonic()
    run(*RENDER, path)
    wide = time.monotonic() - started
    started = time.monotonic()
    run(*RENDER, stdin=f"{HEADER}\nacme/a,arc_easy,0\n")
    assert wide < 5 + 5 * (time.monotonic() - started)
