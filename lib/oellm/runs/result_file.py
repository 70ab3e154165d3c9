"""The bytes of a result file: the framework's own result, with our record as its last key.

Writer and readers of this layout stand here together, since collecting reads our record without
parsing the rest of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from oellm.core import json_codec
from oellm.core.redaction import redact_json
from oellm.runs.result_record import ResultRecord, ResultStatus

# A result: what a framework returns, which only the framework's own reader knows, and our record
# under KEY (`read_record`).
Result = dict[str, Any]
KEY = "oellm"

# How the record begins and ends in a file. JSON has no line ends inside its strings, so nothing
# else in the file looks like its beginning.
_RECORD = b'\n  "oellm": {'
_END = b"\n  }\n}\n"
# A reader leaves out what stands from the first to the second of these: most of the record.
_PROVENANCE, _METRICS = b'\n    "provenance": {', b'\n    "metrics": ['


class InvalidResultError(ValueError):
    """A result that does not count; the text says why."""


def read_record(result: Result) -> ResultRecord:
    """Return our record of a result."""
    return ResultRecord(result[KEY])


def encode_native(native: Mapping[str, Any]) -> bytes:
    """Return the framework's own result as JSON, for `join_result`."""
    return json_codec.dumps(native, indent=True)


def join_result(native: bytes, record: Mapping[str, Any]) -> bytes:
    """Return the content of a result file, without secrets.

    `native` comes from `encode_native`. The two parts are encoded apart, so that the record can
    hold the time that the other part took, and each is encoded once.
    """
    ours = json_codec.dumps({KEY: record}, indent=True)
    joined = ours if native == b"{}" else native[: -len(b"\n}")] + b"," + ours[len(b"{") :]
    return redact_json(joined) + b"\n"


def encode_result(result: Result) -> bytes:
    """Return the content of a result file, or of a failure file, without secrets."""
    native = {key: value for key, value in result.items() if key != KEY}
    return join_result(encode_native(native), result[KEY])


def one_line(content: bytes) -> bytes:
    """Return the content of a result file on one line, without a line end."""
    return b"".join(line.lstrip(b" ") for line in content.split(b"\n"))


def parse_result(content: bytes) -> Any:
    """Return a result file's JSON; raises InvalidResultError if it is none."""
    if not content.strip():
        raise InvalidResultError("it is empty")
    try:
        return json_codec.loads(content)
    except ValueError as error:
        raise InvalidResultError(f"it is not JSON: {error}") from None


def parse_record(content: bytes) -> Any:
    """Return a result of which only our record, without provenance and usage, is sure to be there.

    The framework's own result is most of a file, and provenance is most of our record. If the
    layout is the writer's, neither is parsed: the ends of the file show that they are whole, and
    a crash of the machine shows by the zeros that it may leave. Raises InvalidResultError if the
    file is no JSON.
    """
    start = content.rfind(_RECORD)
    if start > 0 and content[:2] == b"{\n" and content.endswith(_END) and b"\0" not in content:
        ours = content[start + len(_RECORD) - 1 : -3]
        begin, end = ours.find(_PROVENANCE), ours.find(_METRICS)
        if 0 < begin < end:
            ours = ours[:begin] + ours[end:]
        try:
            return {KEY: json_codec.loads(ours)}
        except ValueError:
            pass
    return parse_result(content)


def check_result(result: Any, eval_id: str | None = None) -> None:
    """Raise InvalidResultError if a result is not valid.

    Valid: our record says done, its eval_id is the expected one, there is at least one metric,
    the value of every metric is a finite number, and n_samples is positive if it is known.
    """
    record = result.get(KEY) if isinstance(result, dict) else None
    if not isinstance(record, dict):
        raise InvalidResultError("it has no key oellm")
    if eval_id is not None and record.get("eval_id") != eval_id:
        raise InvalidResultError(f"its eval_id is {record.get('eval_id')!r}")
    if record.get("status") != ResultStatus.DONE:
        raise InvalidResultError(f"its status is {record.get('status')!r}")
    metrics = record.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        raise InvalidResultError("it has no metrics")
    for metric in metrics:
        _check_metric(metric)


def _check_metric(metric: Any) -> None:
    if not isinstance(metric, dict):
        raise InvalidResultError(f"the value of {metric} is None")
    value: Any = metric.get("value")
    n_samples: Any = metric.get("n_samples")
    # JSON's true is no number, though Python's bool is an int. NumPy's floats are Python floats.
    is_number = type(value) is int or isinstance(value, float)
    if not is_number or not math.isfinite(value):
        raise InvalidResultError(f"the value of {metric.get('metric')} is {value!r}")
    if n_samples is not None and (type(n_samples) is not int or n_samples <= 0):
        raise InvalidResultError(f"n_samples of {metric.get('metric')} is {n_samples!r}")
