"""Reads stdin: results and runs as JSON lines, or metric records that were printed before.

oe-run-task prints results, oe-render and oe-submit print runs, and oe-collect prints records.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from oellm.collect.collection import Collection
from oellm.core import json_codec
from oellm.core.regular_files import open_regular_text
from oellm.errors import InputError
from oellm.metrics import reading, scored_rows
from oellm.metrics.records import MetricRecord
from oellm.runs import run_directory
from oellm.runs.result_file import KEY, check_result, read_record

# The number of characters from which `holds_records` judges a file.
_BEGIN = 2**16


def read_lines(
    stream: Iterable[str], source: str, collection: Collection
) -> Iterator[MetricRecord] | None:
    """Add the results and runs of some lines to a collection, or return the metric records.

    The first line decides which of the two the text holds. Raises InputError with the line for
    other text, and for empty input.
    """
    lines = iter(stream)
    begin = []
    for line in lines:
        begin.append(line)
        if line.strip():
            break
    if not begin:
        raise InputError("expected results, runs or metric records, got nothing", source)
    everything = itertools.chain(begin, lines)
    if _is_record(begin[-1]):
        return reading.read_metric_records(everything, source)
    for number, line in enumerate(everything, 1):
        if line.strip():
            _add(_parse_object(line, source, number), source, number=number, collection=collection)
    return None


def holds_records(path: str) -> bool:
    """Return whether a file begins like metric records, and not like a result or other JSON."""
    with open_regular_text(path, encoding="utf-8-sig", errors="replace") as stream:
        begin = stream.read(_BEGIN)
    first = next(filter(str.strip, begin.splitlines()), "{")
    return _is_record(first) and all(name in begin for name in reading.REQUIRED)


def _is_record(line: str) -> bool:
    """Return whether the first line of a text is one of metric records, in CSV or JSON."""
    if not line.lstrip().startswith("{"):
        return True
    try:
        record = json_codec.loads(line.encode("utf-8", "replace"))
    except ValueError:
        return False
    return "metric" in record and KEY not in record


def _parse_object(line: str, source: str, number: int) -> dict[str, Any]:
    try:
        record = json_codec.loads(line.encode("utf-8", "replace"))
    except ValueError as error:
        place = f"{source}:{number}:{getattr(error, 'colno', 1)}"
        text = getattr(error, "msg", error)
        raise InputError(f"expected a JSON object on each line: {text}", place) from None
    if not isinstance(record, dict):
        raise InputError("expected a result or run object", source, number)
    if KEY in record and not isinstance(record[KEY], dict):
        raise InputError("expected an object", source, line=number, column=KEY)
    return record


def _add(record: dict[str, Any], source: str, number: int, collection: Collection) -> None:
    """Add the run or result of a line to a collection."""
    if record == run_directory.NO_RUN:
        collection.add_no_run()
        return
    if KEY not in record:
        if not isinstance(record.get("run_dir"), str):
            raise InputError("expected a result object or a run object", source, number)
        collection.add_run(run_directory.load_run(record["run_dir"]))
        return
    ours = read_record(record)
    try:
        check_result(record)
        collection.add(scored_rows.read_scored_row(record, ours.run_dir))
        return
    except ValueError as error:
        reason = str(error)
    if ours.failure is not None:
        reason = ours.failure.message or reason
    collection.fail(f"{source}:{number}: {ours.task_path} has no result: {reason}")
