"""The whole pipeline on the local executor, and how it recovers from a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from support.processes import BIN, DEMO_TASKS, Run, clean_environment
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def results(run_dir: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in run_dir.glob("results/*.json")}


def test_model_arguments_reach_the_loaded_model_through_every_stage(
    run: Run, tiny_model: Path
) -> None:
    rows = run(
        *("oe-manifest", "--models", f"{tiny_model},dtype=bfloat16,acme/unused", "--limit=4"),
        *("--tasks=oellm_choice", "--n_shot=0", f"--include_path={DEMO_TASKS}"),
    ).stdout.splitlines(keepends=True)
    fetched = run("oe-fetch", "--cluster=local", stdin="".join(rows[:2])).stdout
    rendered = run("oe-render", "--cluster=local", stdin=fetched).stdout
    submitted = run("oe-submit", stdin=rendered).stdout
    collected = run("oe-collect", "--format=jsonl", stdin=submitted).stdout
    assert json.loads(collected.splitlines()[0])["model_path"] == f"{tiny_model},dtype=bfloat16"
    (result,) = results(Path(json.loads(submitted)["run_dir"])).values()
    assert result["config"]["model_dtype"] == "torch.bfloat16"
    assert result["n-samples"]["oellm_choice"]["effective"] == 4


def test_a_killed_run_is_completed_and_nothing_is_computed_twice(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    rows = run(
        *("oe-manifest", "--models", tiny_model, "--tasks=oellm_choice,oellm_prose"),
        *("--n_shot=0,1,2", "--limit=6", f"--include_path={DEMO_TASKS}"),
    ).stdout
    rendered = run("oe-render", "--cluster=local", stdin=rows).stdout
    run_dir = Path(json.loads(rendered)["run_dir"])
    before = kill_the_worker_after_a_result(run_dir, tmp_path)
    assert 1 <= len(before) < 6

    missing = run("oe-missing", run_dir).stdout.splitlines()
    assert len(missing) - 1 == 6 - len(before)

    done = run("oe-submit", run_dir)
    assert f"{len(before)} rows already have results, {6 - len(before)} to evaluate" in done.stderr
    after = results(run_dir)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before

    # Lose three results: delete two, cut off one. A new run computes exactly these.
    lost = sorted(after)[:3]
    for name in lost[:2]:
        (run_dir / "results" / f"{name}.json").unlink()
    damaged = run_dir / "results" / f"{lost[2]}.json"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    collected = run("oe-collect", run_dir, status=1)
    assert f"{damaged}: left out, it is not JSON" in collected.stderr
    missing_rows = run("oe-missing", run_dir).stdout
    second = json.loads(run("oe-render", "--cluster=local", stdin=missing_rows).stdout)
    run("oe-submit", second["run_dir"])
    again = results(Path(second["run_dir"]))
    assert sorted(again) == lost
    for name in lost:
        assert again[name]["results"] == after[name]["results"]
    both = run("oe-missing", run_dir, second["run_dir"])
    assert both.stderr.endswith("oe-missing: 0 of 6 rows have no valid result\n")


def kill_the_worker_after_a_result(run_dir: Path, home: Path) -> dict[str, dict[str, object]]:
    """Submit locally, and SIGKILL the worker after its first result; return the results."""
    process = subprocess.Popen(
        [BIN / "oe-submit", run_dir],
        env=clean_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: bool(results(run_dir)), 240, process)
    (first, *_) = results(run_dir).values()
    os.kill(first["oellm"]["provenance"]["pid"], signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    return results(run_dir)


def test_schedule_eval_does_the_whole_way(run: Run, tiny_model: Path) -> None:
    done = run(
        *("oellm", "schedule-eval", "--cluster=local", "--models", tiny_model, "--limit=2"),
        *("--tasks", "oellm_choice", "--n_shot", "0", "--include_path", DEMO_TASKS),
        "--set=dtype=bfloat16",
    )
    record = json.loads(done.stdout)
    (result,) = results(Path(record["run_dir"])).values()
    assert result["config"]["model_dtype"] == "torch.bfloat16"
    assert result["config"]["model_args"] == f"pretrained={tiny_model},dtype=bfloat16"
    table = run("oellm", "collect-results", record["run_dir"]).stdout.splitlines()
    assert len(table) == 3
    for command in ("oe-manifest", "oe-fetch", "oe-render", "oe-submit"):
        assert f"oellm: {command} " in done.stderr or f"oellm: {command}\n" in done.stderr
