"""One rule says what a valid result is: whatever it lets through can be collected."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.core import tables
from oellm.metrics import reading, scored_rows
from oellm.metrics.records import PrimaryMetrics, column_names, make_metric_records, select_columns
from oellm.runs.result_file import InvalidResultError, check_result
from support.golden_run import CHOICE, CONTRACT

RESULT = json.loads((CONTRACT / "run" / "results" / f"{CHOICE}.json").read_text())
DELETED = object()
# Values of every type, and those at the edges: no digit too many, no line end too few.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        [DELETED, 10**400, -1, 2**63, "NaN", "", "\x1b[2J", "a,b=c", "lm-eval", [], {}]
    ),
    st.text(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON value."""
    if path:
        yield path
    for key in (
        value if isinstance(value, dict) else range(len(value) if type(value) is list else 0)
    ):
        yield from places(value[key], (*path, key))


PLACES = [path for path in places(RESULT["oellm"]) if path[0] != "provenance"]


def mutated(changes: list[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
    record = copy.deepcopy(RESULT["oellm"])
    for (*path, last), value in changes:
        parent = record
        try:
            for key in path:
                parent = parent[key]
            if value is DELETED:
                del parent[last]
            else:
                parent[last] = value
        except (KeyError, IndexError, TypeError):
            continue
    return {"oellm": record}


@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), max_size=3))
def test_whatever_is_valid_can_be_collected_and_read_back(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    result = mutated(changes)
    try:
        check_result(result)
    except InvalidResultError as error:
        assert str(error)
        return
    scored = scored_rows.read_scored_row(result, "/run")
    records = list(make_metric_records(scored, PrimaryMetrics({})))
    assert len(records) == len(result["oellm"]["metrics"])
    rows = list(select_columns(records, column_names()))
    for layout in tables.BY_LINE:
        text = tables.format_head(column_names(), layout)
        text += tables.format_lines(rows, column_names(), layout)
        assert list(reading.read_metric_records(io.StringIO(text, newline=""), layout)) == records


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("eval_id",), DELETED, "its eval_id is None"),
        (("row", "model_path"), DELETED, "its row lacks model_path"),
        (("row", "task_path"), "", "its row lacks task_path"),
        (("row",), [], "its row is not a manifest row"),
        (("row", "limit"), "many", "its row: limit: expected a number of documents"),
        (("metrics", 0, "value"), 10**400, "the value of acc is 1000"),
        (("metrics", 0, "filter"), DELETED, "a metric lacks one of task, metric, filter"),
        (("metrics", 0, "stderr"), "0.1", "stderr of acc is '0.1'"),
        (("metrics", 0, "n_shot"), -1, "n_shot of acc is -1"),
        (("metrics", 0, "higher_is_better"), 1, "higher_is_better of acc is 1"),
        (("metrics", 0, "group"), None, "group of acc is None"),
        (("metrics", 0, "aggregate"), 5, "aggregate of acc is 5"),
    ],
)
def test_a_result_that_is_not_valid_says_why(path: Any, value: Any, reason: str) -> None:
    with pytest.raises(InvalidResultError) as error:
        check_result(mutated([(path, value)]))
    assert str(error.value).startswith(reason)
