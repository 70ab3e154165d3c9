"""lm-eval's humaneval: fetched, answered by a model with a known score, and scored in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.code_metric import serve_code_metric
from support.code_rows import serve_human_eval
from support.frameworks import KNOWN, PROBLEMS, reciting_model
from support.hub import Hub
from support.processes import Run, rows_of

# As the batch script of a job sets them.
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")


@pytest.fixture
def offline(hub: Hub, tmp_path: Path) -> dict[str, str]:
    serve_human_eval(hub, tmp_path / "human_eval")
    # Not `code_eval`: evaluate would take the one in the working directory.
    serve_code_metric(hub, tmp_path / "served")
    return {**hub.environment, "HF_HOME": str(tmp_path / "hf"), "OELLM_CLUSTER": "local"}


@pytest.mark.slow
def test_humaneval_has_its_known_score_and_needs_permission_for_nothing_on_the_gpu_side(
    run: Run, hub: Hub, offline: dict[str, str], tmp_path: Path
) -> None:
    model = reciting_model()
    made = run(
        *("oe-manifest", "--models", model, "--tasks=humaneval", "--n_shot=0"),
        *(f"--limit={PROBLEMS}", "--gen_kwargs=max_gen_toks=300", "--dtype=float32"),
        *("--batch_size=4", "--log_samples=true"),
        env=offline,
    )
    fetched = run("oe-fetch", stdin=made.stdout, env=offline)
    (row,) = rows_of(fetched.stdout)
    assert (row["n_docs"], row["request_types"]) == ("12", "generate_until=12")
    assert "openai/openai_humaneval@" in row["dataset_revision"]
    hub.stop()
    offline |= dict.fromkeys(OFFLINE, "1")
    called = ("oe-run-task", "--output_dir=out")
    refused = run(*called, stdin=fetched.stdout, env=offline, status=1)
    assert "it needs a sandbox" in refused.stderr
    done = run(*called, "--unsafe_execution", stdin=fetched.stdout, env=offline)
    result: dict[str, Any] = json.loads(done.stdout)
    (score,) = result["oellm"]["metrics"]
    assert (score["metric"], score["filter"]) == ("pass@1", "create_test")
    assert score["value"] == KNOWN / PROBLEMS
    # The standard error of lm-eval's own command line for the same answers.
    assert score["stderr"] == pytest.approx(0.1421338109037403, abs=1e-15)
    assert result["oellm"]["environment"]["backend"] == "hf"
    assert result["oellm"]["environment"]["sandbox"] in ("guard", "namespaces", "none")
    (samples,) = (tmp_path / "out" / "samples").iterdir()
    assert len(samples.read_text().splitlines()) == PROBLEMS
    collected = run("oe-collect", "out", "--columns=task,metric,value", env=offline)
    assert collected.stdout.splitlines()[1:] == [f"humaneval,pass@1,{KNOWN / PROBLEMS}"]
