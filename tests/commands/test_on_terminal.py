"""What people see of oe-submit and oe-status on a terminal of 80 columns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.golden_run import make_run
from support.model_directories import write_model
from support.processes import Run, clean_environment, rows_of
from support.submitting import HEADER, FakeSlurm, finish, jobs
from support.terminal import lines_on_terminal, on_terminal


def test_oe_submit_names_the_run_directory_and_the_next_commands(
    slurm: FakeSlurm, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    run_dir = rendered["run_dir"]
    env = clean_environment(tmp_path, slurm.env)
    done = on_terminal("oe-submit", run_dir, env=env)
    assert done.stdout == f"{run_dir}\n"
    assert done.stderr.splitlines()[-2:] == [
        f"watch:  oe-status --watch {run_dir}",
        f"scores: oe-collect {run_dir}",
    ]
    assert len(jobs(rendered)) == 1


def test_oellm_ends_with_the_run_directory_and_the_next_commands(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + "acme/m,t,0\n")
    options = ("--cluster=slurm", f"--set=eval_base_dir={tmp_path}/base")
    done = on_terminal(
        *("oellm", "schedule-eval", f"--eval_csv_path={tmp_path}/rows.csv", "--skip_fetch"),
        *(*options, f"--set=venv={idle_venv()}"),
        env=clean_environment(tmp_path, slurm.env),
    )
    (run_dir,) = (tmp_path / "base").glob("*/2*")
    assert done.stdout == f"{run_dir}\n"
    # One stage tells what is next: the last.
    steps = [line for line in done.stderr.splitlines() if not line.startswith(("oe", "oellm"))]
    assert [line.split(":")[0] for line in steps] == ["watch", "scores"]


def test_a_run_whose_rows_are_done_is_not_to_be_watched(
    slurm: FakeSlurm, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    run_dir, env = rendered["run_dir"], clean_environment(tmp_path, slurm.env)
    finish(rendered, *range(rendered["n_rows"]))
    told = on_terminal("oe-submit", run_dir, env=env).stderr
    assert "watch" not in told
    assert told.splitlines()[-1] == f"scores: oe-collect {run_dir}"

    settings = {"eval_base_dir": Path(run_dir).parents[1], "venv": idle_venv()}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    command = ("oellm", "schedule", f"{run_dir}/jobs.csv", "--skip_fetch", "--cluster=slurm")
    done = on_terminal(*command, *options, env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"scores: oe-collect {Path(run_dir).parents[1]}\n" in done.stderr


def test_without_a_run_oe_submit_does_not_wait_for_somebody_to_type_one(tmp_path: Path) -> None:
    for words in (("oellm", "cancel"), ("oe-submit",)):
        done = on_terminal(*words, env=clean_environment(tmp_path))
        assert done.returncode == 2
        assert "expected the directory or the name of a run; oe-status lists yours" in done.stderr


def test_oe_render_names_the_run_directory_and_the_next_command(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(HEADER + "acme/m,t,0\n")
    options = ("--cluster=slurm", f"--set=eval_base_dir={tmp_path}/a b")
    done = on_terminal(
        *("oe-render", *options, f"--set=venv={idle_venv()}", tmp_path / "rows.csv"),
        env=clean_environment(tmp_path, {"OELLM_CACHE_DIR": str(tmp_path)}),
    )
    (run_dir,) = (tmp_path / "a b").glob("*/2*")
    assert done.stdout == f"'{run_dir}'\n"
    assert done.stderr.splitlines()[-1] == f"next: oe-submit '{run_dir}'"


def test_the_estimates_of_rows_fit_however_long_the_paths_of_models_are(tmp_path: Path) -> None:
    names = ["iter_0001000", "iter_0002000"]
    for name in names:
        write_model(tmp_path / "a/very/long/way/to/the/experiment" / name)
    rows = [f"{tmp_path}/a/very/long/way/to/the/experiment/{name},hellaswag,5\n" for name in names]
    (tmp_path / "rows.csv").write_text(HEADER + "".join(rows))
    done = on_terminal(
        *("oe-render", "--explain", "--cluster=local", tmp_path / "rows.csv"),
        env=clean_environment(tmp_path),
    )
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [name for name in names if any(name in line for line in lines)] == names
    assert "names of models lack what all models share" in done.stderr


def test_the_list_of_runs_fits_and_tells_them_apart(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    made = []
    for models in (2, 1):
        names = [f"a/long/way/experiment-{m}/checkpoints/iter_{m:07}" for m in range(models)]
        for name in names:
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        rows = "".join(
            f"{tmp_path}/{name},task_with_a_long_name_{t},0\n" for name in names for t in range(3)
        )
        options = (
            "--cluster=slurm",
            f"--set=eval_base_dir={tmp_path}",
            f"--set=venv={idle_venv()}",
        )
        record = json.loads(run("oe-render", *options, stdin=HEADER + rows).stdout)
        made.append(Path(record["run_dir"]))
    run("oe-submit", made[1], env=slurm.env)
    env = clean_environment(tmp_path, {**slurm.env, "EVAL_OUTPUT_DIR": str(made[0].parents[1])})
    lines = lines_on_terminal("oe-status", "--cluster=local", env=env)
    assert lines[:2] == [str(made[0].parent), ""]
    assert lines[2].split() == ["run", "state", "done", "left", "models", "and", "tasks"]
    assert max(map(len, lines[2:])) <= 80
    found = {line.split()[0]: line for line in lines[3:]}
    untouched = r"  not submitted  0/6   6     exper\S*…\S*00 \+1: task_w\S*…\S*_0 \+2$"
    assert re.search(untouched, found[made[0].name])
    assert re.search(r"  pending        0/3   3     exper\S*…\S*00: task_w", found[made[1].name])
    described = run("oe-status", "--cluster=local", "--format=jsonl", env=env).stdout
    first = {json.loads(line)["run_dir"]: json.loads(line) for line in described.splitlines()}
    record = first[str(made[0])]
    assert (record["models"], record["tasks"], record["not_submitted"]) == (2, 3, 6)
    assert record["first_task"] == "task_with_a_long_name_0"


@pytest.mark.parametrize("command", ["status", "collect", "pivot", "compare", "missing"])
def test_a_terminal_gets_a_table_and_a_pipe_gets_csv(
    run: Run, tmp_path: Path, command: str
) -> None:
    runs = [make_run(tmp_path / name) for name in ("old", "new")]
    paths = runs if command == "compare" else runs[:1]
    status = 1 if command == "status" else 0
    piped = run(f"oe-{command}", *paths, status=status)
    assert rows_of(piped.stdout)
    shown = on_terminal(f"oe-{command}", *paths, env=clean_environment(tmp_path), width=200)
    assert shown.returncode == status, shown.stderr
    assert "," not in shown.stdout.splitlines()[0]
    header = piped.stdout.splitlines()[0]
    assert "," in header
    assert header not in shown.stdout
