"""Reads what commands print: results and runs as JSON lines, and metric records.

oe-run-task prints results, oe-render and oe-submit print runs, and oe-collect prints records. They
come through stdin, or from a file in which somebody kept them.
"""

from __future__ import annotations

import csv
import enum
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

from oellm.collect.collection import Collection
from oellm.core import json_codec, schema
from oellm.core.regular_files import open_regular_text
from oellm.errors import InputError
from oellm.metrics import reading, scored_rows
from oellm.metrics.reading import RecordText
from oellm.runs import run_directory
from oellm.runs.result_file import KEY, check_result, read_record

# The number of characters from which `find_kind` judges a file.
_BEGIN = 2**16


def read_lines(stream: Iterable[str], source: str, collection: Collection) -> RecordText | None:
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
        _refuse_manifest(_read_header(begin[-1]), source)
        return RecordText(everything, source)
    for number, line in enumerate(everything, 1):
        if line.strip():
            _add(_parse_object(line, source, number), source, number=number, collection=collection)
    return None


class FileKind(enum.Enum):
    """What a file that a user names holds: metric records, JSON lines of ours, or anything else."""

    RECORDS = enum.auto()
    LINES = enum.auto()
    OTHER = enum.auto()


def find_kind(path: str) -> FileKind:
    """Return what a file holds, as far as its beginning tells; raises InputError for a manifest."""
    with open_regular_text(path, encoding="utf-8-sig", errors="replace") as stream:
        begin = stream.read(_BEGIN)
    lines = list(filter(str.strip, begin.splitlines()))
    first = lines[0] if lines else "{"
    if first.lstrip()[:1] not in ("{", "["):
        return _find_kind_of_text(first, path)
    if _is_record(first) and all(name in begin for name in reading.REQUIRED):
        return FileKind.RECORDS
    members = _parse_line(first)
    # A single result is read like a result file, which knows where it is.
    is_ours = "run_dir" in members or (KEY in members and len(lines) > 1)
    return FileKind.LINES if is_ours else FileKind.OTHER


def add_files(paths: Iterable[str], collection: Collection) -> tuple[list[str], list[str]]:
    """Add the results and runs in files of JSON lines to a collection.

    Return the paths of files of metric records, and all other paths. Raises InputError for a
    manifest, and for lines that are neither results nor runs.
    """
    records: list[str] = []
    others: list[str] = []
    for path in paths:
        kind = find_kind(path) if os.path.isfile(path) else FileKind.OTHER
        if kind is FileKind.LINES:
            with open_regular_text(path, encoding="utf-8-sig") as stream:
                read_lines(stream, path, collection)
        else:
            (records if kind is FileKind.RECORDS else others).append(path)
    return records, others


def _find_kind_of_text(first: str, path: str) -> FileKind:
    """Return the kind of a file whose first line is not JSON, so that it may be CSV."""
    header = _read_header(first)
    _refuse_manifest(header, path)
    is_table = reading.has_records(header) or path.endswith(".csv")
    return FileKind.RECORDS if is_table else FileKind.OTHER


def _read_header(line: str) -> list[str]:
    """Return the names in the first line of CSV; none if it cannot be a header."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _refuse_manifest(header: Sequence[str], source: str) -> None:
    if set(schema.required("manifest")) <= set(header):
        hint = "oe-missing --in=DIR prints its rows that have no result"
        raise InputError(f"expected results, got a manifest; {hint}", source)


def _parse_line(line: str) -> dict[str, Any]:
    """Return the object on a line; an empty one for anything else."""
    try:
        members = json_codec.loads(line.encode("utf-8", "replace"))
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def _is_record(line: str) -> bool:
    """Return whether the first line of a text is one of metric records, in CSV or JSON."""
    if not line.lstrip().startswith("{"):
        return True
    record = _parse_line(line)
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
    collection.fail(f"{source}:{number}: {ours.task_path or 'a row'} has no result: {reason}")
