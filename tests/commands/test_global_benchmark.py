"""global-benchmark through a terminal and without one; other commands do the work."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.model_directories import write_model
from support.processes import Run, clean_environment
from support.terminal import converse, end, on_terminal

# Stands for oe-fetch, oe-render, oe-submit, oe-collect and oe-build: keeps what it gets.
_STAGE = """#!/usr/bin/env python3
import csv, json, os, sys
name, *words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
given = "" if name in ("oe-collect", "oe-build") else sys.stdin.read()
with open("calls.jsonl", "a") as stream:
    stream.write(json.dumps([name, *words]) + "\\n")
if name == "oe-fetch":
    open("manifest.csv", "w").write(given)
if name == "oe-render":
    directory = words[1].partition("=")[2]
    os.makedirs(directory)
    open(directory + "/run.json", "w").close()
if name == "oe-submit":
    sys.exit(int(os.environ.get("SUBMITTED", "0")))
if name == "oe-collect":
    for number, row in enumerate(csv.DictReader(open("manifest.csv"))):
        scores = {"metric": "pass@1", "filter": "none", "value": 0.5}
        row |= {"task": row["task_path"], "eval_id": str(number), **scores}
        wanted = ("model_path", "task", "eval_id", "eval_suite", *scores)
        own = [name for name in row if name.startswith("benchmark_")]
        print(json.dumps({name: row[name] for name in (*wanted, *own)}))
else:
    sys.stdout.write(given)
"""
STAGES = ("oe-fetch", "oe-render", "oe-submit", "oe-collect", "oe-build")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose PATH begins with the stages' stand-ins and the true command."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in STAGES:
        path = directory / name
        path.write_text(_STAGE)
        path.chmod(0o755)
    true = Path(clean_environment(tmp_path)["PATH"].split(":")[0], "global-benchmark")
    (directory / "global-benchmark").write_text(true.read_text())
    (directory / "global-benchmark").chmod(0o755)
    search = f"{directory}:{os.environ['PATH']}"
    return {"OELLM_CLUSTER": "local", "OELLM_VENV": "/venv", "PATH": search}


def called(directory: Path) -> list[list[str]]:
    return [json.loads(line) for line in (directory / "calls.jsonl").read_text().splitlines()]


def manifest(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((directory / "manifest.csv").read_text())))


def command(directory: Path) -> Path:
    return directory / "bin" / "global-benchmark"


def test_the_stages_run_one_after_the_other_and_leave_results(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    run(command(tmp_path), "config", env=env)
    words = ("-m", "acme/tiny", "--tasks", "multiple-py,mmlu", "-t", "big_code_bench_complete")
    done = run(
        *(command(tmp_path), "run", *words, "--samples", "0.2,20"),
        *("--samples=bigcodebench:0,1", "--limit=5"),
        env=env,
    )
    path = done.stdout.strip()
    name = path.removesuffix(".json")
    where = f"--cluster={name}.cluster"
    assert called(tmp_path) == [
        ["oe-fetch", where],
        ["oe-render", where, f"--run_dir={name}"],
        ["oe-submit"],
        ["oe-collect", "--format=jsonl", name],
    ]
    for line in called(tmp_path)[:3]:
        assert f"global-benchmark: {' '.join(line)}\n" in done.stderr
    assert [row["limit"] for row in manifest(tmp_path)] == ["5"] * 4
    settings = json.loads((tmp_path / f"{name}.cluster").read_text())
    assert (settings["executor"], settings["dtype"]) == ("local", "bfloat16")
    drawn = {"temperature": 0.2, "n_samples": 20}
    greedy = {"temperature": 0, "n_samples": 1}
    assert json.loads((tmp_path / path).read_text()) == {
        "model": "acme/tiny",
        "multiple-py": [{"pass@1": 0.5, **drawn}],
        "mmlu": [{"pass@1,none": 0.5}],
        "big_code_bench_complete": [
            {"pass@1": 0.5, **greedy, "subset": subset} for subset in ("full", "hard")
        ],
    }
    (tmp_path / path).unlink()
    assert run(command(tmp_path), "save", f"{name}/", env=env).stdout.strip() == path
    assert (tmp_path / path).exists()
    (tmp_path / name / "manifest.csv").write_text((tmp_path / "manifest.csv").read_text())
    saved = run(command(tmp_path), "save", ".", env=env, cwd=tmp_path / name)
    assert saved.stdout == f"{tmp_path / path}\n"
    # All rows have failed.
    (tmp_path / "manifest.csv").write_text("task_path\n")
    failed = run(command(tmp_path), "save", name, env=env, status=1)
    assert "no row has a result; oe-status shows why" in failed.stderr


def test_rows_that_fail_leave_the_results_of_the_others_and_status_1(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    run(command(tmp_path), "config", env=env)
    words = ("run", "--model=acme/tiny", "--tasks=mmlu")
    done = run(command(tmp_path), *words, env={**env, "SUBMITTED": "1"}, status=1)
    assert (tmp_path / done.stdout.strip()).exists()
    # An interrupted wait says nothing of results.
    done = run(command(tmp_path), *words, env={**env, "SUBMITTED": "130"}, status=130)
    assert done.stdout == ""


def test_without_a_terminal_the_missing_option_is_named(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    call = command(tmp_path)
    told = run(call, "run", env=env, status=2).stderr
    assert "config.json: no such file; `global-benchmark config` writes one" in told
    run(call, "config", env=env)
    for odd in ("", "/"):
        told = run(call, "save", odd, env=env, status=2).stderr
        assert told == f"global-benchmark: expected a run directory, got {odd!r}\n"
    told = run(call, "config", env=env, status=2).stderr
    assert "config.json exists; --force overwrites it" in told
    run(call, "config", "--force", env=env)
    for words, option in (
        (("run", "--tasks=mmlu"), "--model"),
        (("run", "--model=a/b"), "--tasks"),
        (("run", "--model=a/b", "--tasks=multiple-py"), "--samples"),
        (("setup",), "--definitions"),
    ):
        told = run(call, *words, env=env, status=2).stderr
        assert told == f"global-benchmark: {option} is missing (on a terminal it is asked for)\n"
    # What is wrong is told before anything is asked.
    for words, wrong in (
        (("--limit=x",), "limit: expected "),
        (("--cell=limit=x",), "limit: expected "),
        (("--limit=5", "--cell=limit=6"), "limit is given twice"),
        (("--cell=lm_eval.seed=5", "--cell=lm_eval.seed=6"), "lm_eval.seed is given twice"),
        (("--tasks=mmlu", "--samples=0,1"), "--samples: no task needs them"),
        (("--tasks=multiple-py", "--samples=bigcode:0,1"), "--samples: no task of 'bigcode'"),
    ):
        told = run(call, "run", *words, env=env, status=2).stderr
        assert told.startswith(f"global-benchmark: {wrong}")
    assert not (tmp_path / "calls.jsonl").exists()
    assert not (tmp_path / "results").exists()


def test_samples_that_no_task_needs_are_refused(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    run(command(tmp_path), "config", env=env)
    words = ("run", "--model=a/b", "--tasks=mmlu,mmlu")
    for given, told in (("0,1", "no task needs"), ("bigcode_eval:0,1", "'bigcode_eval' needs")):
        done = run(command(tmp_path), *words, f"--samples={given}", env=env, status=2)
        assert told in done.stderr
    # oe-fetch fails.
    (tmp_path / "bin" / "oe-fetch").write_text("#!/bin/sh\nexit 3\n")
    run(command(tmp_path), *words, env=env, status=3)
    assert list((tmp_path / "results").iterdir()) == []


def test_cells_of_a_framework_come_before_those_of_all(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    run(command(tmp_path), "config", env=env)
    words = ("--model=a/b", "--tasks=mmlu,multiple-py", "--samples=0,1")
    cells = ("--cell=lm_eval.limit=5", "--cell=lm_eval.n_shot=2", "--cell=limit=9")
    run(command(tmp_path), "run", *words, *cells, env=env)
    found = [(row["eval_suite"], row["limit"], row["n_shot"]) for row in manifest(tmp_path)]
    assert found == [("lm_eval", "5", "2"), ("bigcode_eval", "9", "")]


def test_setup_makes_the_images_of_this_kind_of_machine(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    words = ("--definitions=big_code_bench", "--definitions", "lighteval-cpu", "--arg=A=1")
    gpus = {**env, "OELLM_CONTAINER_ARGS": "--nv"}
    run(command(tmp_path), "setup", "-i", "there", *words, env=gpus)
    names = ["vllm-cuda", "bigcodebench-evaluate-cpu", "lighteval-cpu"]
    assert called(tmp_path) == [["oe-build", "--dir=there", "--arg=A=1", *names]]
    source = "--pull=oras://127.0.0.1:5000/oellm/{name}:1"
    run(command(tmp_path), "setup", source, *words[:1], env=gpus)
    assert called(tmp_path)[-1] == ["oe-build", "--dir=images", source, *names[:2]]


def test_slurm_needs_sbatch(run: Run, env: dict[str, str], tmp_path: Path) -> None:
    run(command(tmp_path), "config", env=env)
    words = ("run", "--slurm", "--model=a/b", "--tasks=mmlu")
    told = run(command(tmp_path), *words, env=env, status=3).stderr
    assert "--slurm: this machine has no sbatch" in told


def test_on_slurm_it_waits_with_the_settings_of_both_sections(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    run(command(tmp_path), "config", env=env)
    words = ("run", "--slurm", "--model=a/b", "--tasks=mmlu")
    run(command(tmp_path), *words, env={**env, "OELLM_CLUSTER": "slurm"})
    (path,) = tmp_path.glob("results/*.cluster")
    found = json.loads(path.read_text())
    assert (found["executor"], found["partition"], found["mem"]) == ("slurm", "gpu", "64G")
    assert ["oe-submit", "--wait=done"] in called(tmp_path)


def test_what_no_option_says_is_asked_for(env: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    snapshot = home / ".cache/huggingface/hub/models--acme--tiny/snapshots/1234"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    write_model(tmp_path / "weights" / "mine")
    everything = clean_environment(home, {**env, "OELLM_GPUS_PER_NODE": "0"})

    def start(*words: str) -> Any:
        return converse(command(tmp_path), *words, env=everything, cwd=tmp_path)

    assert end(start("config")) == 0
    asked = start("config")
    asked.expect("config.json exists. Overwrite it")
    asked.send("n")
    assert end(asked) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    config["run"]["binds"] = [str(tmp_path / "weights")]
    (tmp_path / "config.json").write_text(json.dumps(config))

    asked = start("run")
    asked.expect("Which model")
    asked.expect("another one")
    asked.expect("acme/tiny")
    asked.send("mine\r")
    asked.expect("Which tasks")
    asked.send("multiple-py " + "\x7f" * 11 + "other \r")
    asked.expect("Other tasks, separated by commas")
    asked.send("evalplus:humaneval, mmlu_prp\r")
    asked.expect("unknown task 'mmlu_prp'")
    asked.send("\x7fo\r")
    asked.expect("Pairs of ")
    asked.send("(0.2, 0)\r")
    asked.expect("expected ")
    asked.send("\x15(0.2, 20)\r")
    asked.expect("the same without questions: global-benchmark run (.*)\r\n")
    named = "--tasks=multiple-py,evalplus:humaneval,lm_eval:mmlu_pro"
    model = str(tmp_path / "weights" / "mine")
    words = [f"--model={model}", named, "--samples=bigcode_eval:0.2,20"]
    assert asked.match[1].split() == words
    assert end(asked) == 0
    made = [(row["model_path"], row["eval_suite"], row["task_path"]) for row in manifest(tmp_path)]
    assert made == [
        (model, "bigcode_eval", "multiple-py"),
        (model, "evalplus", "humaneval"),
        (model, "lm_eval", "mmlu_pro"),
    ]
    assert len(list(tmp_path.glob("results/*.json"))) == 1

    asked = start("setup")
    asked.expect("Which images")
    asked.send("llm_evaluation_harness \r")
    assert end(asked) == 0
    assert called(tmp_path)[-1] == ["oe-build", "--dir=images", "lm_eval-cpu"]


def test_the_list_fits_a_terminal_and_names_what_cannot_be_run(
    run: Run, env: dict[str, str], tmp_path: Path
) -> None:
    table = list(csv.DictReader(io.StringIO(run("global-benchmark", "list").stdout)))
    assert len(table) == 41
    (apps,) = (row for row in table if row["task"] == "apps-interview")
    assert "pyext" in apps["obstacle"]
    shown = on_terminal("global-benchmark", "list", env=clean_environment(tmp_path)).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "multiple-mlpl: at this version" in shown
