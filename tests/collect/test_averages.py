"""Averages of a pivot's rows, and scores above chance; the expected numbers are made by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from oellm.collect.pivots import pivot, pivot_table
from oellm.collect.pivots.averages import Scope
from oellm.collect.pivots.pivot import PivotRequest
from oellm.collect.pivots.pivot_table import SheetStyle
from oellm.metrics.chance_levels import ChanceLevel, normalise
from oellm.metrics.records import MetricRecord
from oellm.tasks.suites import SuiteTask, SuiteWeights
from support.pivots import objects, record, sheet
from support.processes import Run


def test_averages_cover_complete_columns_on_one_scale() -> None:
    found = [
        *(record(model, "arc", value) for model, value in (("a", 0.1), ("b", 0.2))),
        *(record(model, "piqa", value) for model, value in (("a", 0.5), ("b", 0.25))),
        *(record(model, "bleu", value) for model, value in (("a", 30), ("b", 20))),
        *(record(model, "ppl", 0.5, higher_is_better=False) for model in "ab"),
        *(record(model, "odd", 0.5, higher_is_better=None) for model in "ab"),
        record("a", "mmlu", 0.5, aggregate="partial"),
        record("b", "mmlu", 0.5, aggregate="reported"),
        record("a", "boolq", 0.5),
    ]
    averaged = sheet(found, style=SheetStyle(for_people=False, averages=Scope.ALL))
    assert [one["average"] for one in objects(averaged)] == [0.3, 0.225]
    assert averaged.notes == [
        "average without ppl (0): lower is better",
        "average without odd (0): unknown whether higher is better",
        "average without mmlu (0): scores of groups from some of their tasks only",
        "average without boolq (0): not every row has a score",
        "average without bleu (0): its scale goes beyond 1, unlike that of others",
    ]
    none = sheet(found[-3:], style=SheetStyle(for_people=True, averages=Scope.ALL))
    assert [one["average"] for one in objects(none)] == [None, None]
    assert none.notes[-1] == "no average: no column is suitable"


# Two models, three tasks of the suite s, one of which is in another language, and a task of t.
SCORED = [
    record("a", "four", 0.5, stderr=0.03, language="deu_Latn"),
    record("a", "two", 0.75, stderr=0.04, language="deu_Latn"),
    record("a", "free", 0.2, stderr=0.05, metric="exact_match", language="fra_Latn"),
    record("a", "chrf", 40.0, stderr=1.0, metric="chrf++", language="fra_Latn"),
    record("b", "four", 0.25, stderr=0.03, language="deu_Latn"),
    record("b", "two", 0.4, stderr=0.04, language="deu_Latn"),
    record("b", "free", 0.1, stderr=None, metric="exact_match", language="fra_Latn"),
    record("b", "chrf", 20.0, stderr=1.0, metric="chrf++", language="fra_Latn"),
]
FOUR, TWO, FREE, CHRF = (
    SuiteTask(task, "0", "lm_eval") for task in ("four", "two", "free", "chrf")
)


def averages_of(
    found: list[MetricRecord], scope: Scope, suites: SuiteWeights = MappingProxyType({})
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the averages of each row, rounded to 6 digits, and the notes."""
    style = SheetStyle(for_people=False, with_stderr=True, averages=scope)
    made = pivot_table.make_sheet(pivot.make_matrix(found, PivotRequest()), style, suites)
    rows = [
        {
            head: None if value is None else round(value, 6)
            for head, value in row.items()
            if head.startswith("average")
        }
        for row in objects(made)
    ]
    return rows, made.notes


def test_averages_have_the_error_of_independent_tasks() -> None:
    rows, notes = averages_of(SCORED, Scope.ALL)
    # (0.5 + 0.75 + 0.2) / 3, and the root of 0.03² + 0.04² + 0.05², by 3.
    assert rows == [
        {"average": 0.483333, "average stderr": 0.02357},
        {"average": 0.25, "average stderr": None},
    ]
    assert notes == ["average without chrf (0): its scale goes beyond 1, unlike that of others"]


def test_averages_by_language_have_a_scale_of_their_own() -> None:
    found = [one for one in SCORED if one.task != "free"]
    rows, notes = averages_of(found, Scope.LANGUAGE)
    assert rows == [
        {
            "average deu_Latn": 0.625,
            "average deu_Latn stderr": 0.025,
            "average fra_Latn": 40.0,
            "average fra_Latn stderr": 1.0,
        },
        {
            "average deu_Latn": 0.325,
            "average deu_Latn stderr": 0.025,
            "average fra_Latn": 20.0,
            "average fra_Latn stderr": 1.0,
        },
    ]
    assert notes == []


def test_averages_by_suite_have_weights_and_need_all_tasks() -> None:
    suites = {
        "s": {FOUR: 3.0, TWO: 1.0},
        "any-shots": {FREE._replace(n_shot=""): 1.0},
        "other-shots": {FOUR._replace(n_shot="5"): 1.0},
        "larger": {FOUR: 1.0, TWO: 1.0, SuiteTask("more", "0", "lm_eval"): 1.0},
    }
    rows, notes = averages_of(SCORED, Scope.SUITE, suites)
    assert rows[0] == {
        # (3 × 0.5 + 0.75) / 4, and the root of (3 × 0.03)² + 0.04², by 4.
        "average s": 0.5625,
        "average s stderr": 0.024622,
        "average any-shots": 0.2,
        "average any-shots stderr": 0.05,
    }
    assert notes == ["no average of suites that lack tasks: larger (1 of 3)"]
    rows, notes = averages_of(SCORED, Scope.SUITE, {"larger": suites["larger"]})
    assert rows == [{}, {}]
    assert notes[-1] == "no average: no column is suitable"


@pytest.mark.parametrize("order", [1, -1])
def test_a_suite_whose_task_has_several_columns_has_no_average(order: int) -> None:
    found = [record("a", "free", 0.5), record("a", "free", 0.9, n_shot=5)][::order]
    suites = {"any": {FREE._replace(n_shot=""): 1.0}, "none": {FREE: 1.0}}
    rows, notes = averages_of(found, Scope.SUITE, suites)
    assert rows == [{"average none": 0.5, "average none stderr": None}]
    assert notes == ["no average of suites of which a task has several columns: any (free)"]


def test_parts_of_a_group_do_not_count_beside_it() -> None:
    found = [
        record("a", "mmlu", 0.5),
        *(record("a", f"mmlu_{part}", 1.0, group="mmlu") for part in ("law", "art")),
        record("a", "other_part", 0.75, group="other"),
    ]
    style = SheetStyle(for_people=False, averages=Scope.ALL)
    matrix = pivot.make_matrix(found, PivotRequest(with_members=True))
    made = pivot_table.make_sheet(matrix, style)
    assert objects(made)[0]["average"] == 0.625
    assert made.notes == [
        "average without mmlu_law (0), mmlu_art (0): parts of groups that count themselves"
    ]


def test_normalised_scores_are_0_at_chance_and_1_if_perfect() -> None:
    levels = {
        ("lm_eval", "four"): ChanceLevel("acc_norm", 0.25),
        ("lm_eval", "two"): ChanceLevel("acc", 0.5),
        ("lm_eval", "free"): ChanceLevel("exact_match", 0.0),
        ("lm_eval", "group"): ChanceLevel("acc", 0.25),
        ("lighteval", "chrf"): ChanceLevel("chrf++", 0.0),
    }
    part = record("a", "part", 1.0, group="group")
    ppl = record("a", "two", 9.0, metric="perplexity", is_primary=False)
    made, left_out = normalise([*SCORED, part, ppl], levels)
    found = {(one.model_path, one.task): (one.value, one.stderr) for one in made}
    assert left_out == ["chrf"]
    assert found == {
        ("a", "four"): (pytest.approx(1 / 3), pytest.approx(0.04)),
        ("a", "two"): (0.5, 0.08),
        ("a", "free"): (0.2, 0.05),
        ("b", "four"): (0.0, pytest.approx(0.04)),
        # Worse than guessing.
        ("b", "two"): (pytest.approx(-0.2), 0.08),
        ("b", "free"): (0.1, None),
        ("a", "part"): (1.0, None),
    }


def test_the_command_averages_suites_above_chance(run: Run, tmp_path: Path) -> None:
    suite = {"tasks": [{"task": "two", "n_shot": [0], "primary_metric": "acc", "chance": 0.5}]}
    suite["tasks"].append({"task": "four", "n_shot": [0], "primary_metric": "acc", "chance": "1/4"})
    home = tmp_path / "config" / "oellm"
    home.mkdir(parents=True)
    (home / "task-groups.json").write_text(json.dumps({"groups": {"mine": suite}}))
    text = "".join(json.dumps(one._replace(extra={})._asdict()) + "\n" for one in SCORED)
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    options = ("--average=suite", "--normalised", "--filter=model_path=a")
    done = run("oe-pivot", *options, stdin=text, env=environment)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert float(row["average mine"]) == pytest.approx((1 / 3 + 0.5) / 2)
    assert "left out because no suite knows their chance level: free, chrf\n" in done.stderr
    refused = run("oe-pivot", "--average=tasks", stdin=text, status=2)
    assert "--average: expected all, suite, language or nothing, got 'tasks'" in refused.stderr
