"""A worker evaluates no row whose model or task has changed since oe-submit looked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.evaluated_run import EvaluatedRun, overwrite_weights
from support.processes import DEMO_TASKS, Run

# Starts workers.
pytestmark = pytest.mark.slow


def failures(found: EvaluatedRun) -> dict[str, str]:
    """Return why rows failed, by model and task."""
    messages = {}
    for row in found.rows():
        path = found.path / "failures" / f"{row['eval_id']}.json"
        if path.exists():
            failure = json.loads(path.read_text())["oellm"]["failure"]
            name = f"{Path(row['model_path']).name} {row['task_path']}"
            messages[name] = f"{failure['class']}: {failure['message']}"
    return messages


def test_a_job_refuses_what_has_changed_since_oe_submit(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    # The job changes things before its worker starts, as somebody else may while it waits.
    change = tmp_path / "change.sh"
    found = EvaluatedRun(run, tmp_path, tiny_model, f"--set=setup=bash {change}")
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    overwrite_weights(other)
    change.write_text(
        f"cp {other}/*.safetensors {found.models[0]}\n"
        f"sed -i 's/Question: /Q: /' {found.tasks}/oellm_choice.yaml\n"
    )
    found.render(models=2)
    done = found.submit(status=1)
    assert "1 of 4 rows have results" in done.stderr
    assert list(found.results()) == ["iter_2 oellm_prose"]
    advice = "since oe-submit; run oe-submit again"
    weights, task = "weights changed", "task oellm_choice changed"
    assert failures(found) == {
        "iter_1 oellm_choice": f"ContentsChangedError: {weights}, {task} {advice}",
        "iter_1 oellm_prose": f"ContentsChangedError: {weights} {advice}",
        "iter_2 oellm_choice": f"ContentsChangedError: {task} {advice}",
    }
    # Nothing had a result of the earlier state, so nothing is out of date.
    again = found.submit()
    assert "set aside" not in again.stderr
    assert "4 of 4 rows have results" in again.stderr
    assert failures(found) == {}


def test_a_directory_of_results_without_a_run_has_one_state_too(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    model = tmp_path / "iter_1"
    shutil.copytree(tiny_model, model)
    rows = "model_path,task_path,n_shot,limit,include_path\n"
    rows += f"{model},oellm_prose,0,4,{DEMO_TASKS}\n"
    evaluate = ("oe-run-task", f"--output_dir={tmp_path}/out")
    run(*evaluate, stdin=rows)
    for path in model.iterdir():
        path.touch()
    assert "0 rows evaluated, 1 already had results" in run(*evaluate, stdin=rows).stderr
    overwrite_weights(model)
    done = run(*evaluate, stdin=rows)
    assert "weights changed; earlier result set aside: " in done.stderr
    assert "1 rows evaluated" in done.stderr
