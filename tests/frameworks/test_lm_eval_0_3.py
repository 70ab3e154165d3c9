"""Results as lm-eval 0.3 writes them, and as older tools kept them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oellm.frameworks.reading.detect import read_result
from support.result_documents import OLD, read


def test_lm_eval_0_3_has_metrics_without_a_filter() -> None:
    rows = read(OLD)
    shown = [
        (score.task, score.n_shot, score.metric, score.filter, score.value, score.stderr)
        for row in rows
        for score in row.scores
    ]
    assert shown == [
        ("piqa", 3, "acc", "none", 0.75, 0.01),
        ("piqa", 3, "acc_norm", "none", 0.5, 0.02),
        ("lambada", 3, "ppl", "none", 9.5, 0.25),
        ("lambada", 3, "acc", "none", 0.5, 0.03),
    ]
    assert {row.row["model_path"] for row in rows} == {"org/m,revision=step5"}
    assert {row.row["backend"] for row in rows} == {"hf-causal"}
    assert [row.remarks + row.notes for row in rows] == [(), ()]


@pytest.mark.parametrize(
    ("given", "shots"),
    [
        (0, [0, 0]),
        ([2, 4], [2, 4]),
        ([2], [2, 2]),
        ("2, 4", [2, 4]),
        ("5", [5, 5]),
        (None, [None, None]),
        ("many", [None, None]),
        ([2, "x"], [2, None]),
    ],
)
def test_shots_of_lm_eval_0_3_are_of_all_tasks_or_of_each(given: Any, shots: list[Any]) -> None:
    rows = read({**OLD, "config": OLD["config"] | {"num_fewshot": given}})
    assert [row.scores[0].n_shot for row in rows] == shots


def test_results_alone_with_versions_are_of_lm_eval_too() -> None:
    kept = {name: OLD[name] for name in ("results", "versions")}
    rows = read(kept)
    assert [row.row["model_path"] for row in rows] == ["dir (guessed)"] * 2
    assert [row.scores[0].value for row in rows] == [0.75, 9.5]
    for other in ({}, {"a": 1}, [1]):
        assert read_result(json.dumps({**kept, "results": other}).encode(), "/x/a.json") is None
    assert read_result(json.dumps({**kept, "more": 1}).encode(), "/x/a.json") is None


def test_shots_that_fit_no_task_are_unknown_and_said() -> None:
    rows = read({**OLD, "config": OLD["config"] | {"num_fewshot": [1, 2, 3]}})
    assert [row.scores[0].n_shot for row in rows] == [None, None]
    assert rows[0].notes == ("the shots are unknown: num_fewshot has 3 for 2 tasks",)
