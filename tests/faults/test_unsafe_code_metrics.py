"""Tasks with a metric that runs code in processes of its own, as humaneval and mbpp have one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.processes import Run, rows_of

# As in lm-eval, the metric is tried when the file is imported. As in code_eval, it starts a manager
# and a process.
METRIC = """
import multiprocessing
import os

import datasets


def _check(program, passed):
    try:
        exec(program, {})
        passed.append(True)
    except BaseException:
        passed.append(False)


def passes(program):
    if os.environ["HF_ALLOW_CODE_EVAL"] != "1":
        raise ValueError("code may not run")
    manager = multiprocessing.Manager()
    passed = manager.list()
    process = multiprocessing.Process(target=_check, args=(program, passed))
    process.start()
    process.join(timeout=10)
    return bool(passed) and passed[0]


assert passes("assert 1 == 1")


def score(references, predictions):
    return float(passes(predictions[0]) or passes(references[0]))


def load(**_):
    rows = [{"text": "n = 1"}, {"text": "fail()"}]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
"""
TASK = """
task: programs
unsafe_code: true
custom_dataset: !function metric.load
output_type: generate_until
test_split: test
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
generation_kwargs: {max_gen_toks: 4, until: ["."]}
metric_list:
  - metric: !function metric.score
    aggregation: mean
    higher_is_better: true
"""


def write_task(directory: Path) -> Path:
    """Write the task; return its directory, which the user of the sandbox may read."""
    tasks = directory / "tasks"
    tasks.mkdir()
    (tasks / "metric.py").write_text(METRIC)
    (tasks / "programs.yaml").write_text(TASK)
    return tasks


@pytest.mark.slow
def test_a_metric_may_start_processes(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    tasks = write_task(tmp_path)
    manifest = (
        "model_path,task_path,n_shot,include_path,confirm_run_unsafe_code\n"
        f"{tiny_model},programs,0,{tasks},true\n"
    )
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    fetched = run("oe-fetch", "--cluster=local", stdin=manifest, env=offline)
    (row,) = rows_of(fetched.stdout)
    assert (row["n_docs"], row["request_types"]) == ("2", "generate_until=2")
    done = run("oe-run-task", stdin=fetched.stdout, env=offline)
    (metric,) = json.loads(done.stdout)["oellm"]["metrics"]
    assert (metric["metric"], metric["value"]) == ("score", 0.5)


@pytest.mark.slow
def test_programs_of_a_model_do_not_run_without_a_sandbox_or_permission(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    tasks = write_task(tmp_path)
    arguments = ["oe-manifest", f"--models={tiny_model}", "--tasks=programs", "--n_shot=0"]
    made = run(*arguments, f"--include_path={tasks}")
    done = run("oe-run-task", "--output_dir=out", stdin=made.stdout, status=1)
    failure = json.loads(done.stdout)["oellm"]["failure"]
    assert (failure["class"], failure["stage"]) == ("NotPermittedError", "evaluate")
    assert "it needs a sandbox: set images.lm_eval-evaluate" in failure["message"]
    # The answers are there, and what is permitted later asks the model nothing more.
    permitted = run("oe-run-task", "--output_dir=out", "--unsafe_execution", stdin=made.stdout)
    assert "loaded in" not in permitted.stderr
    (metric,) = json.loads(permitted.stdout)["oellm"]["metrics"]
    assert (metric["metric"], metric["value"]) == ("score", 0.5)
