"""The bytes of a result file: what is written together is read back apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.core import json_codec
from oellm.runs import result_file
from oellm.runs.result_file import InvalidResultError, parse_record, parse_result
from oellm.runs.result_store import ResultStore

EVAL_ID = "0123456789abcdef"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def record(**more: Any) -> dict[str, Any]:
    """Return our record of a row that is done, in the order in which the worker writes it."""
    names = {"task": "t", "metric": "acc", "filter": "none"}
    metrics = [{**names, "value": 0.5, "n_samples": 4}]
    return {
        "eval_id": EVAL_ID,
        "status": "done",
        "row": {"model_path": "m", "task_path": "t"},
        "timing": {"row_s": 1.5},
        "provenance": {"host": "n1", "versions": {"torch": "2"}},
        "metrics": metrics,
        **more,
    }


@given(st.dictionaries(st.text().filter(lambda key: key != "oellm"), VALUES, max_size=4), VALUES)
def test_both_parts_are_read_back_and_ours_without_the_rest(
    native: dict[str, Any], remark: Any
) -> None:
    result = {**native, "oellm": record(remarks=[remark])}
    content = result_file.encode_result(result)
    assert json.loads(content) == result
    assert list(json.loads(content)) == list(result)
    assert parse_result(content) == result
    ours = parse_record(content)["oellm"]
    assert {**ours, "provenance": record()["provenance"]} == result["oellm"]
    line = result_file.one_line(content)
    assert b"\n" not in line
    assert json.loads(line) == result


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"results": ', "it is not JSON: "),
        (result_file.encode_result({"results": {}, "oellm": record()})[:-9], "it is not JSON: "),
    ],
)
def test_what_is_no_result_is_an_error_with_the_reason(content: bytes, reason: str) -> None:
    for parse in (parse_result, parse_record):
        with pytest.raises(InvalidResultError) as error:
            parse(content)
        assert str(error.value).startswith(reason)


def test_each_part_of_a_result_is_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[list[str]] = []
    dumps = json_codec.dumps

    def count(value: Any, indent: bool = False) -> bytes:
        encoded.append(list(value))
        return dumps(value, indent=indent)

    monkeypatch.setattr(json_codec, "dumps", count)
    written = ResultStore(tmp_path).write_result({"results": {"a": 1}, "oellm": record()})
    assert encoded == [["results"], ["oellm"]]
    in_file = json.loads((tmp_path / "results" / f"{EVAL_ID}.json").read_bytes())
    assert json.loads(written.content) == in_file
    assert 0 < in_file["oellm"]["timing"]["writing_s"] < 60
