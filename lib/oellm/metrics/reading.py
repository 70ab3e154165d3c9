"""Metric records read back: CSV, JSON lines or a JSON array, as oe-collect prints them.

CSV may also be a table of scores that another tool wrote (score_tables).

Other tools may have changed the records in between. The reader accepts what they write if its
meaning is plain: `True` for true, `5.0` for 5, columns in another order, left out or added.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oellm.core import json_codec, schema
from oellm.core.csv_records import CsvReader
from oellm.core.schema import KINDS
from oellm.errors import InputError
from oellm.metrics import score_tables
from oellm.metrics.records import MetricRecord

REQUIRED = ("model_path", "task", "metric", "value")


def has_records(header: Sequence[str]) -> bool:
    """Return whether a CSV text with this header has metric records, ours or another tool's."""
    return set(REQUIRED) <= set(header) or score_tables.find_table(header) is not None


def read_metric_records(stream: Iterable[str], source: str) -> Iterator[MetricRecord]:
    """Yield the metric records of a text one by one; a JSON array is read as a whole.

    Every format gives the same records. Columns that schema.json's table `metric` does not have
    are ignored. CSV with a header alone, and an empty array, give no record. Raises InputError for
    empty input and for anything that is no record, with the column and the line (in an array, the
    number of the record).
    """
    try:
        lines = iter(stream)
        first = next(lines, "")
        lines = itertools.chain([first], lines)
        if not first:
            raise InputError("expected metric records, got nothing: did oe-collect fail?", source)
        if first.lstrip().startswith("["):
            yield from _of_array("".join(lines), source)
        elif first.lstrip().startswith("{"):
            yield from _of_json_lines(lines, source)
        else:
            yield from _of_csv(lines, source)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source) from None


def _of_csv(lines: Iterable[str], source: str) -> Iterator[MetricRecord]:
    reader = CsvReader(lines, source)
    is_ours = set(REQUIRED) <= set(reader.header)
    read_row = None if is_ours else score_tables.find_table(reader.header)
    if read_row is None:
        reader.require(REQUIRED)
    for line, texts in reader:
        cells: Mapping[str, str] = dict(zip(reader.header, texts, strict=True))
        yield _record(read_row(cells) if read_row else cells, source, line)


def _of_json_lines(lines: Iterable[str], source: str) -> Iterator[MetricRecord]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            members = json_codec.loads(line.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            text = f"expected a JSON object on each line: {getattr(error, 'msg', error)}"
            raise InputError(text, f"{source}:{number}:{getattr(error, 'colno', 1)}") from None
        yield _of_object(members, source, number)


def _of_array(text: str, source: str) -> Iterator[MetricRecord]:
    try:
        array = json_codec.loads(text.encode("utf-8", "surrogatepass"))
    except ValueError as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        message = f"expected a JSON array: {getattr(error, 'msg', error)}"
        raise InputError(message, f"{source}:{line}:{column}") from None
    for number, members in enumerate(array, 1):
        yield _of_object(members, f"{source}: record {number}", None)


def _of_object(members: Any, source: str, line: int | None) -> MetricRecord:
    if not isinstance(members, dict):
        raise InputError("expected a metric record, an object", source, line)
    for name in REQUIRED:
        if name not in members:
            raise InputError("this key of a metric record is missing", source, line, column=name)
    return _record(members, source, line)


def _record(cells: Mapping[str, Any], source: str, line: int | None) -> MetricRecord:
    table = schema.table("metric")
    values: dict[str, Any] = {}
    for name, value in cells.items():
        if name not in table or value is None or value == "":
            continue
        try:
            kind = KINDS[table[name]["type"]]
            values[name] = kind.parse(value) if isinstance(value, str) else kind.check(value)
        except ValueError as error:
            raise InputError(str(error), source, line, column=name) from None
    for name in REQUIRED:
        if name not in values:
            raise InputError("expected a value, got none", source, line, column=name)
    return MetricRecord(**values)
