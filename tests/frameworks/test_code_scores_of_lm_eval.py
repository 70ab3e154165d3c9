"""lm-eval's humaneval and mbpp: fetched, answered by a model with known scores, scored apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.code_metric import serve_code_metric
from support.code_rows import serve_human_eval, serve_mbpp
from support.frameworks import KNOWN, PROBLEMS, reciting_model
from support.hub import Hub
from support.processes import Run, rows_of

# As the batch script of a job sets them.
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")


@pytest.fixture
def offline(hub: Hub, tmp_path: Path) -> dict[str, str]:
    serve_human_eval(hub, tmp_path / "human_eval")
    serve_mbpp(hub, tmp_path / "mbpp")
    # Not `code_eval`: evaluate would take the one in the working directory.
    serve_code_metric(hub, tmp_path / "served")
    return {**hub.environment, "HF_HOME": str(tmp_path / "hf"), "OELLM_CLUSTER": "local"}


@pytest.mark.slow
def test_both_have_their_known_scores_and_need_permission_for_nothing_on_the_gpu_side(
    run: Run, hub: Hub, offline: dict[str, str], tmp_path: Path
) -> None:
    model = reciting_model()
    made = run(
        *("oe-manifest", "--models", model, "--tasks=humaneval,mbpp", "--n_shot=0"),
        *(f"--limit={PROBLEMS}", "--gen_kwargs=max_gen_toks=300", "--dtype=float32"),
        *("--batch_size=4", "--log_samples=true"),
        env=offline,
    )
    fetched = run("oe-fetch", stdin=made.stdout, env=offline)
    data_sets = ("openai/openai_humaneval@", "google-research-datasets/mbpp@")
    for row, data_set in zip(rows_of(fetched.stdout), data_sets, strict=True):
        assert (row["n_docs"], row["request_types"]) == ("12", "generate_until=12")
        assert row["dataset_revision"].startswith(data_set)
    hub.stop()
    offline |= dict.fromkeys(OFFLINE, "1")
    called = ("oe-run-task", "--output_dir=out")
    refused = run(*called, stdin=fetched.stdout, env=offline, status=1)
    assert "it needs a sandbox" in refused.stderr
    done = run(*called, "--unsafe_execution", stdin=fetched.stdout, env=offline)
    found: dict[str, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        ours = json.loads(line)["oellm"]
        (found[ours["row"]["task_path"]],) = ours["metrics"]
        assert ours["environment"]["backend"] == "hf"
        assert ours["environment"]["sandbox"] in ("guard", "namespaces", "none")
    score = found["humaneval"]
    assert (score["metric"], score["filter"]) == ("pass@1", "create_test")
    assert [each["value"] for each in found.values()] == [KNOWN / PROBLEMS] * 2
    # The standard error of lm-eval's own command line for the same answers.
    assert score["stderr"] == pytest.approx(0.1421338109037403, abs=1e-15)
    for samples in (tmp_path / "out" / "samples").iterdir():
        assert len(samples.read_text().splitlines()) == PROBLEMS
    collected = run("oe-collect", "out", "--columns=task,metric,value", env=offline)
    assert f"humaneval,pass@1,{KNOWN / PROBLEMS}" in collected.stdout.splitlines()
