"""A tokenizer that a row takes from the hub has a new commit in the cache: named, and evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.processes import DEMO_TASKS, Run

# Evaluates with a model.
pytestmark = pytest.mark.slow

OLD, NEW = "1" * 40, "2" * 40


def cache_tokenizer(hub: Path, model: Path, commit: str) -> None:
    """Let the hub's cache have the tokenizer of a model as org/words at a commit."""
    repository = hub / "models--org--words"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in (*model.glob("*token*"), model / "config.json"):
        shutil.copy(path, snapshot)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_a_new_commit_of_a_tokenizer_makes_results_stale(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    home, run_dir = tmp_path / "hf", tmp_path / "run"
    cache_tokenizer(home / "hub", tiny_model, OLD)
    rows = run(
        *("oe-manifest", f"--models={tiny_model},tokenizer=org/words", "--tasks=oellm_choice"),
        *("--n_shot=0", "--limit=2", f"--include_path={DEMO_TASKS}"),
    )
    settings = (f"--set=eval_output_dir={tmp_path}/out", f"--set=hf_home={home}")
    run("oe-render", "--cluster=local", *settings, f"--run_dir={run_dir}", stdin=rows.stdout)
    run("oe-submit", run_dir)
    (result,) = (run_dir / "results").glob("*.json")
    before = json.loads(result.read_text())["oellm"]["contents"]["model"]
    assert "stale" not in run("oe-submit", "--dry_run", run_dir).stderr

    cache_tokenizer(home / "hub", tiny_model, NEW)
    done = run("oe-submit", run_dir).stderr
    assert "tokenizer of the model changed; set aside, to be evaluated again" in done
    after = json.loads(result.read_text())["oellm"]["contents"]["model"]
    assert after[:8] == before[:8] and after[8:] != before[8:]
