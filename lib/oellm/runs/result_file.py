"""The bytes of a result file: the framework's own result, with our record as its last key.

Writer and readers of this layout stand here together, since collecting reads our record without
parsing the rest of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oellm.core import json_codec
from oellm.core.json_codec import is_finite
from oellm.core.redaction import redact_json
from oellm.manifest.cells import read_cell
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


# Cells that a row needs, and those whose values metric records have.
_NAMED = ("model_path", "task_path")
_PARSED = ("model_path", "n_shot", "eval_suite", "limit", "apply_chat_template", "step")
# No count of documents or examples reaches this; 64 bits hold whatever does not.
_LARGEST = 2**63


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


def parse_record(content: bytes, *, with_provenance: bool = False) -> Any:
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
        if 0 < begin < end and not with_provenance:
            ours = ours[:begin] + ours[end:]
        try:
            return {KEY: json_codec.loads(ours)}
        except ValueError:
            pass
    return parse_result(content)


def check_result(result: Any, eval_id: str | None = None) -> None:
    """Raise InvalidResultError if a result is not valid: if one of its scores cannot be collected.

    Valid: our record says done, its eval_id is the expected one (any, if none is given), its row
    is a manifest row that names a model and a task, and there is at least one metric, each of them
    with its task, name and filter, and a finite number as its value. What a metric may lack is of
    its type if it is there.
    """
    record = result.get(KEY) if isinstance(result, dict) else None
    if not isinstance(record, dict):
        raise InvalidResultError("it has no key oellm")
    found = record.get("eval_id")
    if found != eval_id if eval_id is not None else not (isinstance(found, str) and found):
        raise InvalidResultError(f"its eval_id is {found!r}")
    if record.get("status") != ResultStatus.DONE:
        raise InvalidResultError(f"its status is {record.get('status')!r}")
    metrics = record.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        raise InvalidResultError("it has no metrics")
    for metric in metrics:
        _check_metric(metric)
    _check_row(record.get("row"))


def _check_metric(metric: Any) -> None:
    """Raise InvalidResultError if a metric is not valid."""
    if not isinstance(metric, dict):
        raise InvalidResultError(f"the value of {metric!r:.80} is None")
    get = metric.get
    task, name = get("task"), get("metric")
    if not (task and name and type(task) is type(name) is type(get("filter")) is str):
        raise InvalidResultError(f"a metric lacks one of task, metric, filter: {metric!r:.200}")
    value = get("value")
    # A float that is not finite differs from itself, or its difference from itself is not zero.
    if not (type(value) is float and value - value == 0) and not is_finite(value):
        raise InvalidResultError(f"the value of {metric['metric']} is {value!r:.40}")
    stderr, n_samples, n_shot = get("stderr"), get("n_samples"), get("n_shot")
    is_known = stderr is not None and not (type(stderr) is float and stderr - stderr == 0)
    if is_known and not is_finite(stderr):
        raise _impossible(metric, "stderr")
    if n_samples is not None and (type(n_samples) is not int or not 0 < n_samples < _LARGEST):
        raise _impossible(metric, "n_samples")
    if n_shot is not None and (type(n_shot) is not int or not 0 <= n_shot < _LARGEST):
        raise _impossible(metric, "n_shot")
    direction = get("higher_is_better")
    if direction is not None and direction is not True and direction is not False:
        raise _impossible(metric, "higher_is_better")
    if type(get("group", "")) is not str:
        raise _impossible(metric, "group")
    if type(get("aggregate", "")) is not str:
        raise _impossible(metric, "aggregate")


def _impossible(metric: Mapping[str, Any], name: str) -> InvalidResultError:
    return InvalidResultError(f"{name} of {metric['metric']} is {metric[name]!r:.40}")


def _check_row(cells: Any) -> None:
    if not isinstance(cells, dict) or set(map(type, cells.values())) - {str}:
        raise InvalidResultError("its row is not a manifest row")
    for name in _NAMED:
        if not cells.get(name):
            raise InvalidResultError(f"its row lacks {name}")
    try:
        for name in _PARSED:
            read_cell(name, cells.get(name, ""))
    except ValueError as error:
        raise InvalidResultError(f"its row: {name}: {error}") from None
