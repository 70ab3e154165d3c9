"""Scores that are not what was asked for: it is seen in records, tables and the status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.frameworks.lm_eval.metrics import read_task_scores
from oellm.manifest.rows import Row
from support.golden_run import CHOICE, make_run
from support.processes import Run, rows_of

SHOTS = "10 shots were asked for, 0 used"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run whose task fixes its shots: 10 were asked for."""
    run_dir = make_run(tmp_path / "run")
    path = run_dir / "results" / f"{CHOICE}.json"
    result = json.loads(path.read_text())
    result["oellm"]["row"]["n_shot"] = "10"
    path.write_text(json.dumps(result, indent=2))
    return run_dir


def test_other_shots_than_asked_for_are_seen_everywhere(run: Run, run_dir: Path) -> None:
    done = run("oe-collect", run_dir)
    remarks = {row["metric"]: row["remark"] for row in rows_of(done.stdout)}
    assert remarks == {"acc": SHOTS, "acc_norm": SHOTS, "bits_per_byte": ""}
    assert f"oe-collect: 2 scores not as asked: {SHOTS}\n" in done.stderr
    run("oe-collect", "--strict", run_dir, status=1)
    run("oe-collect", "--strict", "--filter=task=oellm_prose", run_dir)
    table = run("oe-pivot", "--format=markdown", run_dir)
    assert f"(a) {SHOTS}" in table.stdout
    assert "oe-pivot: (a) " in table.stderr
    assert SHOTS in run("oe-report", run_dir).stdout
    (status,) = (
        row
        for row in rows_of(run("oe-status", "--format=csv", run_dir, status=1).stdout)
        if row["eval_id"] == CHOICE
    )
    assert (status["state"], status["reason"]) == ("done", f"oellm_choice: {SHOTS}")
    assert (
        "1 row done, but not as asked:"
        in run("oe-status", "--format=table", run_dir, status=1).stdout
    )


def test_a_limit_above_the_number_of_documents_is_seen(run: Run, run_dir: Path) -> None:
    path = run_dir / "results" / f"{CHOICE}.json"
    result = json.loads(path.read_text())
    result["oellm"]["row"] |= {"n_shot": "0", "limit": "1000"}
    path.write_text(json.dumps(result, indent=2))
    remark = "1000 documents were asked for, 4 scored"
    found = {row["remark"] for row in rows_of(run("oe-collect", run_dir).stdout)}
    assert found == {remark, ""}
    rows = rows_of(run("oe-status", "--format=csv", run_dir, status=1).stdout)
    assert f"oellm_choice: {remark}" in {row["reason"] for row in rows}


def test_limits_are_said_in_every_table(run: Run, run_dir: Path) -> None:
    for layout in ("table", "markdown", "latex", "html"):
        for command in ("oe-pivot", "oe-compare"):
            paths = [run_dir] * (1 + (command == "oe-compare"))
            done = run(command, f"--format={layout}", *paths)
            assert "all scores: limit 4" in done.stdout
            assert f"{command}: all scores: limit 4\n" in done.stderr
    assert "limit 4" in run("oe-report", run_dir).stderr


def test_a_filter_that_matches_nothing_is_said(run: Run, run_dir: Path) -> None:
    done = run("oe-collect", "--filter=task=nosuch", run_dir)
    assert "oe-collect: no record matches: 3 records left out\n" in done.stderr


def native(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "results": {"prose": {"alias": "prose", **values}},
        "n-shot": {"prose": 0},
        "n-samples": {"prose": {"original": 10, "effective": 10}},
    }


ROW = Row({"model_path": "m", "task_path": "prose", "n_shot": "0"})


def test_a_metric_that_is_no_number_is_named_and_the_others_stay() -> None:
    values = {"word_perplexity,none": float("inf"), "bits_per_byte,none": 1.5}
    found = read_task_scores(native(values), ROW)
    assert [score.metric for score in found.scores] == ["bits_per_byte"]
    assert found.states["prose"].remark == "word_perplexity is inf"
    assert found.remarks == ["word_perplexity is inf in prose"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"acc,none": float("nan")}, "no metric is a number: acc is nan in prose"),
        ({"bypass,none": 999}, "it has no metrics: predicted, not scored"),
        ({}, "it has no metrics"),
    ],
)
def test_a_result_without_any_number_says_why(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match="metric") as error:
        read_task_scores(native(values), ROW)
    assert str(error.value) == reason
