"""Our record of a row: it is read as it was written, whichever version wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.runs.result_record import (
    FailureRecord,
    ResultRecord,
    RowProvenance,
    RowTiming,
    RowUsage,
)

RUN = Path(__file__).parents[1] / "golden" / "contract" / "run"
RESULTS = sorted((RUN / "results").glob("*.json"))
FAILURES = sorted((RUN / "failures").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())["oellm"]
    return record


@pytest.mark.parametrize("path", [*RESULTS, *FAILURES], ids=lambda path: path.stem)
def test_parts_are_written_as_they_were_read(path: Path) -> None:
    content = load(path)
    record = ResultRecord(content)
    parts: dict[str, Any] = {"timing": record.timing.to_json()}
    if record.failure is None:
        parts["usage"] = record.usage.to_json()
    else:
        parts["failure"] = record.failure.to_json()
    assert json.dumps(parts) == json.dumps({name: content[name] for name in parts})
    assert record.finished == record.timing.finished == content["timing"]["finished"]
    assert record.run_dir == record.provenance.run_dir == content["provenance"]["run_dir"]


def test_a_record_of_a_version_that_knew_less() -> None:
    record = ResultRecord({"eval_id": "a", "row": {"task_path": "t"}})
    assert record.timing == RowTiming()
    assert record.timing.to_json() == {}
    unknown = RowProvenance(
        run_dir="", cluster="", versions={}, gpus=None, cpu="", model_bytes=None
    )
    assert record.provenance == unknown
    assert (record.run_dir, record.finished, record.failure) == ("", "", None)
    assert (record.eval_id, record.task_path) == ("a", "t")
    with pytest.raises(ValueError, match=r"^usage is None$"):
        _ = record.usage


def test_keys_of_a_later_version_stay_in_the_object() -> None:
    content = {"eval_id": "a", "timing": {"row_s": 1, "cooling_s": 2.5}, "weather": "rain"}
    record = ResultRecord(content)
    assert record.timing == RowTiming(row_s=1)
    record.set_writing_time(0.12345678)
    timing = {"row_s": 1, "cooling_s": 2.5, "writing_s": 0.123457}
    assert record.content == {"eval_id": "a", "timing": timing, "weather": "rain"}


@pytest.mark.parametrize(
    ("read", "content", "reason"),
    [
        (RowTiming.from_json, {"row_s": "fast"}, "timing: row_s is 'fast'"),
        (RowTiming.from_json, {"row_s": True}, "timing: row_s is True"),
        (RowTiming.from_json, {"finished": 7}, "timing: finished is 7"),
        (RowUsage.from_json, [], r"usage is \[\]"),
        (RowUsage.from_json, {"documents": 1, "requests": 1.5}, "usage: requests is 1.5"),
        (RowProvenance.from_json, [], r"provenance is \[\]"),
        (RowProvenance.from_json, {"cpu": None}, "cpu is None"),
        (RowProvenance.from_json, {"accelerator": {"gpus": [1]}}, "provenance: accelerator is "),
        (RowProvenance.from_json, {"accelerator": {"cuda": "12"}}, "provenance: accelerator is "),
    ],
)
def test_damaged_parts_are_errors(read: Any, content: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        read(content)


@pytest.mark.parametrize("failure", [None, [], {"attempts": "often"}])
def test_a_damaged_failure_is_none(failure: Any) -> None:
    assert ResultRecord({"failure": failure}).failure is None


def test_a_timing_takes_over_what_another_knows() -> None:
    timing = RowTiming(start_s=1.0, row_s=2.0, started="then")
    timing.add(RowTiming(row_s=3.0, scoring_s=0.0))
    assert timing == RowTiming(start_s=1.0, row_s=3.0, scoring_s=0.0, started="then")


def test_a_failure_without_keys_has_no_attempts() -> None:
    found = FailureRecord.from_json({"class": "Error"})
    assert found == FailureRecord(error="Error", message="", traceback="", attempts=0, log="")
