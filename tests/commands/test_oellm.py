"""oellm: the seeds' command lines, stage by stage, without evaluating anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.environments import idle_venv
from support.model_directories import write_model
from support.processes import DEMO_TASKS, Run
from support.submitting import finish


@pytest.mark.slow
def test_dry_run_of_the_documented_example_prints_the_script(run: Run) -> None:
    done = run(
        *("oellm", "schedule-eval", "--models", "microsoft/DialoGPT-medium,EleutherAI/pythia-160m"),
        *("--tasks", "hellaswag,mmlu", "--n_shot", "5", "--limit", "10", "--dry_run"),
        "--cluster=leonardo",
    )
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=0-0\n" in done.stdout
    assert "oe-fetch" not in done.stderr
    assert done.stderr.splitlines()[0] == (
        "oellm: oe-manifest --models=microsoft/DialoGPT-medium,EleutherAI/pythia-160m "
        "--tasks=hellaswag,mmlu --n_shot=5 --limit=10"
    )


def test_rows_may_come_from_a_file(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "evals.csv"
    rows.write_text('model_path,task_path,n_shot\n"acme/m,dtype=float16",mmlu,5\nacme/n,mmlu,5\n')
    done = run("oellm", "schedule-eval", f"--eval_csv_path={rows}", "--dry_run", "--cluster=lumi")
    assert "oe-render: shards 0: models: 2, rows: 2, about " in done.stderr


def test_a_failing_stage_stops_the_way_and_gives_its_status(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "evals.csv"
    rows.write_text("model_path,task_path,n_shot\nacme/m,mmlu,five\n")
    done = run(
        *("oellm", "schedule-eval", f"--eval_csv_path={rows}", "--cluster=local", "--skip_fetch"),
        status=2,
    )
    assert "oe-missing: stdin:2: n_shot: expected a non-negative integer, got 'five'" in done.stderr
    assert "oellm: stopped, oe-missing ended with status 2" in done.stderr
    assert "oe-submit" not in done.stderr
    assert not (tmp_path / "oellm-output").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks=mmlu"], "nothing to evaluate: give --models, or --eval_csv_path"),
        (["--eval_csv_path=x.csv", "--limit=3"], "--eval_csv_path gives all the rows"),
        (["--models=a/b", "--download_only", "--dry_run"], "--download_only only fetches"),
    ],
)
def test_contradictions_are_refused(run: Run, arguments: list[str], message: str) -> None:
    done = run("oellm", "schedule-eval", *arguments, status=2)
    assert done.stderr.startswith(f"oellm: {message}")


@pytest.mark.slow
def test_download_only_ends_with_the_fetched_manifest(run: Run, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_model(tmp_path / "run" / f"iter_{step}")
    (tmp_path / "run" / "iter_3" / "model.safetensors").write_bytes(b"")
    done = run(
        *("oellm", "schedule-eval", "--models=run", "--tasks=oellm_choice", "--n_shot=2"),
        *(f"--include_path={DEMO_TASKS}", "--cluster=local", "--download_only"),
        *("--checkpoints=last", "--skip_broken"),
    )
    header, row = done.stdout.splitlines()
    assert header.endswith(",task_version,n_docs,n_requests,request_types")
    assert row.startswith(f"{tmp_path}/run/iter_2,oellm_choice,2,lm_eval,{DEMO_TASKS}")
    assert "oe-render" not in done.stderr
    assert not (tmp_path / "oellm-output").exists()


def test_rows_with_results_in_earlier_runs_are_not_evaluated_again(
    run: Run, tmp_path: Path
) -> None:
    models = [write_model(tmp_path / name) for name in ("a", "b", "c")]
    rows = tmp_path / "evals.csv"
    rows.write_text("model_path,task_path,n_shot\n" + "".join(f"{m},t,0\n" for m in models))
    options = [
        "--cluster=slurm",
        f"--set=eval_base_dir={tmp_path}/base",
        f"--set=venv={idle_venv()}",
    ]
    options.append("--set=shard_time=0")
    rendered = json.loads(run("oe-render", *options, rows).stdout)
    finish(rendered, 0, 1)
    command = ("oellm", "schedule-eval", f"--eval_csv_path={rows}", "--skip_fetch", *options)
    again = run(*command, "--dry_run").stderr
    told = f"of 3 rows have results already, or are under way, in {tmp_path}/base"
    assert f"oellm: 2 {told}" in again
    assert "; --again evaluates them anew\n" in again
    assert "models: 1, rows: 1" in again

    (weights,) = models[0].glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    changed = run(*command, "--dry_run").stderr
    assert f"oe-missing: stale: 1 result of {models[0]}: weights changed" in changed
    assert f"oellm: 1 {told}" in changed

    anew = run(*command, "--dry_run", "--again").stderr
    assert "oe-missing" not in anew
    assert "oe-render: in total about" in anew
