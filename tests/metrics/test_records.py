"""Metric records: their columns, and which of them are primary."""

from __future__ import annotations

from typing import Any

import pytest

from oellm.core import schema
from oellm.manifest.rows import Row
from oellm.metrics.records import (
    MetricRecord,
    PrimaryMetrics,
    column_names,
    make_metric_records,
    select_columns,
)
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment, TaskState
from support.score_lines import metric


def scored(*metrics: dict[str, Any], **cells: str) -> ScoredRow:
    row = Row({"model_path": "/m/iter_1000", "task_path": metrics[0]["task"], **cells})
    scores = list(map(MetricScore.from_json, metrics))
    return ScoredRow(row, scores, finished="", run_dir="/run")


def primaries(made_by: PrimaryMetrics, row: ScoredRow) -> list[str]:
    return [r.metric for r in make_metric_records(row, made_by) if r.is_primary]


def test_the_fields_are_the_columns_of_the_schema() -> None:
    table = schema.table("metric")
    assert column_names() == list(table)
    for name in column_names():
        empty = MetricRecord().value_in(name)
        is_text = table[name]["type"] in ("text", "word", "eval_id", "time")
        assert (empty == "") == is_text, name
    assert {"n_shot", "n_samples", "limit", "step"} <= schema.count_columns("metric")
    assert not schema.count_columns("metric") & {"value", "stderr"}


def test_columns_are_selected_in_the_order_asked_for() -> None:
    records = [MetricRecord(task="arc", value=0.5), MetricRecord(task="boolq", value=1.0)]
    assert list(select_columns(records, ["value", "task"])) == [(0.5, "arc"), (1.0, "boolq")]
    assert list(select_columns(records, ["task"])) == [("arc",), ("boolq",)]
    assert [len(values) for values in select_columns(records, column_names())] == [31 - 1] * 2
    with_own = [records[0]._replace(extra={"mix": "a"}), records[1]]
    assert list(select_columns(with_own, ["task", "mix"])) == [("arc", "a"), ("boolq", "")]


def test_who_names_a_metric_decides_which_one_is_primary() -> None:
    row = scored(metric("arc", 0.5), metric("arc", 0.6, metric="f1"), metric("arc", 1, metric="x"))
    assert primaries(PrimaryMetrics({}), row) == ["acc"]
    assert primaries(PrimaryMetrics({"lm_eval": {"arc": "f1"}}), row) == ["f1"]
    assert primaries(PrimaryMetrics({"lm_eval": {"arc": "f1"}}, "x"), row) == ["x"]
    assert primaries(PrimaryMetrics({}, "nothing"), row) == []
    named = row._replace(row=row.row.with_cells(primary_metric="x"))
    assert primaries(PrimaryMetrics({"lm_eval": {"arc": "f1"}}), named) == ["x"]


def test_records_made_before_get_the_metric_that_is_asked_for() -> None:
    row = scored(metric("arc", 0.5), metric("arc", 0.6, metric="f1"))
    before = list(make_metric_records(row, PrimaryMetrics({})))
    again = list(PrimaryMetrics({}, "f1,none").choose_again(before))
    assert [(r.metric, r.is_primary) for r in again] == [("acc", False), ("f1", True)]
    assert list(PrimaryMetrics({}).choose_again(before)) == before


def test_a_score_is_read_back_as_it_was_written() -> None:
    score = MetricScore.from_json(metric("arc", 0.5))
    assert MetricScore.from_json(score.to_json()) == score
    assert score.aggregate == ""
    # Keys of later versions are ignored, and some were not written by earlier ones.
    assert MetricScore.from_json({**score.to_json(), "new": 1}) == score
    least = MetricScore.from_json({"task": "arc", "metric": "acc", "filter": "none", "value": 1})
    assert (least.group, least.n_shot, least.stderr, least.aggregate) == ("", None, None, "")


@pytest.mark.parametrize(
    ("text", "step"),
    [("120000", 120_000), ("120000.0", 120_000), ("", 1000), ("12k", 1000), ("9" * 30, 1000)],
)
def test_the_column_step_counts_before_the_name(text: str, step: int) -> None:
    (record,) = make_metric_records(scored(metric("arc", 0.5), step=text), PrimaryMetrics({}))
    assert record.step == step


def test_records_say_what_the_scores_stand_for() -> None:
    row = scored(
        metric("arc", 0.5),
        metric("mmlu", 0.5),
        dataset_revision="org/arc@1",
        model_digest="0123456789abcdef",
        apply_chat_template="true",
    )
    row = row._replace(
        environment=Environment("0.4.13", "vllm", dtype="bfloat16", hardware="4 × A100"),
        tasks={"arc": TaskState("1.0", "f" * 64)},
    )
    of_arc, of_mmlu = make_metric_records(row, PrimaryMetrics({}))
    assert (of_arc.task_version, of_arc.task_hash) == ("1.0", "f" * 16)
    assert (of_mmlu.task_version, of_mmlu.task_hash) == ("", "")
    assert (of_arc.backend, of_arc.dtype) == ("vllm", "bfloat16")
    assert (of_arc.chat_template, of_arc.hardware) == ("used", "4 × A100")
    # What the row was prepared with is only second to what was used.
    assert (of_arc.dataset_revision, of_arc.model_digest) == ("org/arc@1", "0123456789abcdef")
    used = Contents(model="fedcba9876543210", data="org/arc@2", chat_template="abc")
    record, _ = make_metric_records(row._replace(contents=used), PrimaryMetrics({}))
    assert record.dataset_revision == "org/arc@2"
    assert record.model_digest == "fedcba9876543210"
    assert record.chat_template == "abc"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"eval_id": "0123456789abcdef"}, "none"),
        ({"apply_chat_template": "false"}, "none"),
        ({"apply_chat_template": "chatml"}, "used"),
        # A result of another tool need not say it.
        ({}, ""),
    ],
)
def test_without_a_digest_the_row_says_whether_there_was_a_template(
    cells: dict[str, str], expected: str
) -> None:
    (record,) = make_metric_records(scored(metric("arc", 0.5), **cells), PrimaryMetrics({}))
    assert record.chat_template == expected


def test_a_primary_metric_that_is_not_there_is_told() -> None:
    metrics = metric("arc", 0.5), metric("arc", 0.6, metric="f1")
    remarks = [
        {record.remark for record in make_metric_records(row, PrimaryMetrics({}))}
        for row in (
            scored(*metrics, primary_metric="acc_nrom"),
            scored(*metrics, primary_metric="f1"),
        )
    ]
    assert remarks == [{"primary metric acc_nrom was asked for, and is not there"}, {""}]
