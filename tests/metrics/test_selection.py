"""Filters and order of metric records: what expressions keep, and which ones are refused."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.errors import UsageError
from oellm.manifest.checkpoint_names import natural_key
from oellm.metrics.records import MetricRecord
from oellm.metrics.selection import RecordSelection, split_columns
from support.processes import Run
from support.score_lines import LARGE, LINES, SMALL

NUMBERS = st.none() | st.integers(-3, 12) | st.sampled_from([0.5, -0.25, 10.0, 1e300])
RECORDS = st.lists(
    st.builds(
        lambda task, n_shot, value, primary: record(
            task=task, n_shot=n_shot, value=value, is_primary=primary
        ),
        st.none() | st.sampled_from(["", "mmlu", "iter_9", "iter_10", "a/2", "a/10", "5", "*"]),
        st.none() | st.integers(0, 11),
        NUMBERS,
        st.booleans(),
    ),
    max_size=12,
)
CONDITIONS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["n_shot", "value"]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["5", "05", "5.0", "-0.25", "1e1", ".5"]),
    ),
) | st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["task", "is_primary", "n_shot"]),
        st.sampled_from(["=", "!="]),
        st.sampled_from(["", "*", "m*", "iter_?", "true", "[0-9]", "\\"]),
    ),
)


def record(**values: Any) -> MetricRecord:
    return MetricRecord(**values)


def kept(records: list[MetricRecord], *conditions: str, sort: str = "") -> list[MetricRecord]:
    return list(
        RecordSelection.parse({"--filter": conditions}, sort, primary_only=False).select(records)
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["task=mmlu*"], "mmlu mmlu_law"),
        (["task=mmlu"], "mmlu"),
        (["task=MMLU"], ""),
        (["task=mmlu", "task=arc"], "mmlu arc"),
        (["task!=mmlu*", "task!=arc"], "wikitext"),
        (["task=mmlu*", "task!=*law"], "mmlu"),
        (["n_shot=5"], "mmlu mmlu_law"),
        (["n_shot=05.0"], "mmlu mmlu_law"),
        (["n_shot=2?"], "arc"),
        (["n_shot="], "wikitext"),
        (["n_shot!="], "mmlu mmlu_law arc"),
        (["n_shot<5"], ""),
        (["n_shot>=5", "n_shot <= 24.5"], "mmlu mmlu_law"),
        (["value>0.3", "value<1"], "mmlu_law arc"),
        (["value=.25"], "mmlu"),
        (["limit=0.1"], "arc"),
        (["limit="], "mmlu mmlu_law wikitext"),
        (["higher_is_better=false"], "wikitext"),
        (["higher_is_better=?*"], "mmlu wikitext"),
        (["group=mmlu", "n_shot>1"], "mmlu_law"),
        (["model_path=a=b"], "wikitext"),
    ],
)
def test_what_a_filter_keeps(conditions: list[str], expected: str) -> None:
    records = [
        record(task="mmlu", n_shot=5, value=0.25, higher_is_better=True),
        record(task="mmlu_law", group="mmlu", n_shot=5, value=0.75),
        record(task="arc", n_shot=25, value=0.5, limit=0.1),
        record(task="wikitext", value=12.5, higher_is_better=False, model_path="a=b"),
    ]
    assert " ".join(one.task for one in kept(records, *conditions)) == expected


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("task", "expected COLUMN=PATTERN, COLUMN!=PATTERN or, for numbers, COLUMN<NUMBER"),
        ("task==mmlu", "expected COLUMN=PATTERN"),
        ("", "expected COLUMN=PATTERN"),
        ("task<5", "task holds no numbers: expected = or != after it"),
        ("n_shot<five", "expected a number after n_shot<, got 'five'"),
        ("n_shot>=nan", "expected a number after n_shot>=, got 'nan'"),
    ],
)
def test_a_bad_filter_is_refused(condition: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        kept([], condition)
    assert str(refused.value).startswith(f"--filter: {reason}")


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("task", "b/1 iter_9 iter_10 iter_10"),
        ("-task", "iter_10 iter_10 iter_9 b/1"),
        ("value", "iter_9 b/1 iter_10 iter_10"),
        ("-value", "iter_10 b/1 iter_9 iter_10"),
        ("-n_shot, task", "iter_9 iter_10 iter_10 b/1"),
    ],
)
def test_numbers_sort_by_value_and_names_naturally_and_empty_values_come_last(
    sort: str, expected: str
) -> None:
    records = [
        record(task="iter_10", value=10, n_shot=0),
        record(task="iter_9", value=0.5, n_shot=10),
        record(task="b/1", value=2, n_shot=None),
        record(task="iter_10", value=None, n_shot=9),
    ]
    assert " ".join(one.task for one in kept(records, sort=sort)) == expected


@given(RECORDS, st.lists(CONDITIONS, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_a_filter_keeps_the_records_that_fulfil_all_its_conditions(
    records: list[MetricRecord], conditions: list[str]
) -> None:
    found = kept(records, *conditions)
    assert found == [one for one in records if any(one is other for other in found)]
    equal = [one for one in conditions if "=" in one and not set("!<>") & set(one)]
    others = [one for one in conditions if one not in equal]
    for one in records:
        by_column: dict[str, bool] = {}
        for condition in equal:
            column = condition.partition("=")[0]
            by_column[column] = by_column.get(column, False) or bool(kept([one], condition))
        holds = all(by_column.values()) and all(kept([one], condition) for condition in others)
        assert holds == any(one is other for other in found)
    for condition in equal:
        opposite = condition.replace("=", "!=")
        assert len(kept(records, condition)) + len(kept(records, opposite)) == len(records)


@given(RECORDS, st.lists(st.sampled_from(["task", "-task", "n_shot", "-value"]), max_size=3))
@settings(max_examples=80, deadline=None)
def test_sorting_is_stable_and_keeps_every_record_once(
    records: list[MetricRecord], keys: list[str]
) -> None:
    found = kept(records, sort=",".join(keys))
    assert Counter(map(id, found)) == Counter(map(id, records))
    at = {id(one): place for place, one in enumerate(records)}
    for before, after in itertools.pairwise(found):
        for key in keys:
            one, other = (
                None if value == "" else value
                for value in (getattr(one, key.lstrip("-")) for one in (before, after))
            )
            if one != other:
                assert _in_order(one, other, key.startswith("-")), (one, other, key)
                break
        else:
            assert at[id(before)] < at[id(after)]


def _in_order(one: Any, other: Any, is_descending: bool) -> bool:
    if one is None or other is None:
        return other is None
    if isinstance(one, str):
        one, other = natural_key(one), natural_key(other)
    return (one > other) if is_descending else (one < other)


def test_a_column_named_twice_counts_once() -> None:
    assert split_columns(" task,, value,task ") == ["task", "value"]


def test_the_command_filters_sorts_and_chooses_the_metric(run: Run) -> None:
    wanted = ["--filter=task=hellaswag", "--filter", "n_shot=0", "--sort=-value", "--primary"]
    shown = ["--columns=model_path,metric,value"]
    done = run("oe-collect", *wanted, "--metric=acc", *shown, stdin="".join(LINES))
    assert list(csv.reader(io.StringIO(done.stdout)))[1:] == [
        [LARGE, "acc", "0.375"],
        [SMALL, "acc", "0.25"],
    ]
    refused = run("oe-collect", "--metric=,none", stdin=LINES[0], status=2)
    assert refused.stderr == "oe-collect: --metric: expected METRIC or METRIC,FILTER, got ',none'\n"
