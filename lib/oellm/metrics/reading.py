"""Metric records read back: CSV, JSON lines or a JSON array, as oe-collect prints them.

CSV may also be a table of scores that another tool wrote (score_tables).

Other tools may have changed the records in between. The reader accepts what they write if its
meaning is plain: `True` for true, `5.0` for 5, columns in another order, left out or added. Added
columns, and those that a manifest had besides oellm's, stay in the records as texts.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from oellm.core import json_codec, schema
from oellm.core.csv_records import CsvReader
from oellm.core.schema import KINDS
from oellm.core.tables import cell_text
from oellm.errors import InputError
from oellm.metrics import score_tables
from oellm.metrics.records import MetricRecord
from oellm.metrics.score_tables import Cells

# The source, line and members of a record.
_Placed = tuple[str, int | None, Mapping[str, Any]]

REQUIRED = ("model_path", "task", "metric", "value")


def has_records(header: Sequence[str]) -> bool:
    """Return whether a CSV text with this header has metric records, ours or another tool's."""
    return set(REQUIRED) <= set(header) or score_tables.find_table(header) is not None


class RecordText:
    """The metric records of a text, read one by one; a JSON array is read as a whole.

    Every format gives the same records. CSV with a header alone, and an empty array, give no
    record. Raises InputError for empty input and for anything that is no record, with the column
    and the line (in an array, the number of the record).

    Attributes:
        extra_columns: The columns that schema.json's table `metric` does not have. In JSON lines
            they are those of the first record.
        late_columns: Columns that only later records have; known once all were read.
    """

    def __init__(self, stream: Iterable[str], source: str) -> None:
        self._source = source
        self.late_columns: dict[str, None] = {}
        with _utf8(source):
            lines = iter(stream)
            first = next(lines, "")
            if not first:
                text = "expected metric records, got nothing: did oe-collect fail?"
                raise InputError(text, source)
            lines = itertools.chain([first], lines)
            if first.lstrip().startswith("["):
                objects: Iterator[_Placed] = _of_array("".join(lines), source)
            elif first.lstrip().startswith("{"):
                objects = _of_json_lines(lines, source)
            else:
                reader = CsvReader(lines, source)
                is_ours = set(REQUIRED) <= set(reader.header)
                read_row = None if is_ours else score_tables.find_table(reader.header)
                if read_row is None:
                    reader.require(REQUIRED)
                self.extra_columns = [] if read_row else _extra(reader.header)
                self._objects: Iterator[_Placed] = _of_csv(reader, read_row, source)
                return
            begin = list(itertools.islice(objects, 1))
            self.extra_columns = [name for _, _, members in begin for name in _extra(members)]
            self._objects = itertools.chain(begin, objects)

    def __iter__(self) -> Iterator[MetricRecord]:
        known = set(self.extra_columns)
        with _utf8(self._source):
            for source, line, members in self._objects:
                record = _record(members, source, line)
                if not record.extra.keys() <= known:
                    self.late_columns |= dict.fromkeys(record.extra.keys() - known)
                yield record


def read_metric_records(stream: Iterable[str], source: str) -> Iterator[MetricRecord]:
    """Yield the metric records of a text one by one; raises as RecordText does."""
    yield from RecordText(stream, source)


@contextlib.contextmanager
def _utf8(source: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source) from None


def _extra(names: Iterable[str]) -> list[str]:
    known = schema.table("metric")
    return [name for name in names if name not in known and name.strip()]


def _of_csv(
    reader: CsvReader,
    read_row: Callable[[Mapping[str, str]], Mapping[str, str]] | None,
    source: str,
) -> Iterator[_Placed]:
    for line, texts in reader:
        cells: Cells = dict(zip(reader.header, texts, strict=True))
        yield source, line, read_row(cells) if read_row else cells


def _of_json_lines(lines: Iterable[str], source: str) -> Iterator[_Placed]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            members = json_codec.loads(line.encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            text = f"expected a JSON object on each line: {getattr(error, 'msg', error)}"
            raise InputError(text, f"{source}:{number}:{getattr(error, 'colno', 1)}") from None
        yield source, number, _require_object(members, source, number)


def _of_array(text: str, source: str) -> Iterator[_Placed]:
    try:
        array = json_codec.loads(text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        message = f"expected a JSON array: {getattr(error, 'msg', error)}"
        raise InputError(message, f"{source}:{line}:{column}") from None
    for number, members in enumerate(array, 1):
        place = f"{source}: record {number}"
        yield place, None, _require_object(members, place, None)


def _require_object(members: Any, source: str, line: int | None) -> dict[str, Any]:
    if not isinstance(members, dict):
        raise InputError("expected a metric record, an object", source, line)
    for name in REQUIRED:
        if name not in members:
            raise InputError("this key of a metric record is missing", source, line, column=name)
    return members


def _record(cells: Mapping[str, Any], source: str, line: int | None) -> MetricRecord:
    table = schema.table("metric")
    values: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for name, value in cells.items():
        if value is None or value == "":
            continue
        if name not in table:
            if name.strip():
                extra[name] = _text_of(value)
            continue
        try:
            kind = KINDS[table[name]["type"]]
            values[name] = kind.parse(value) if isinstance(value, str) else kind.check(value)
        except ValueError as error:
            raise InputError(str(error), source, line, column=name) from None
    for name in REQUIRED:
        if name not in values:
            raise InputError("expected a value, got none", source, line, column=name)
    return MetricRecord(**values, extra=extra) if extra else MetricRecord(**values)


def _text_of(value: Any) -> str:
    """Return the value of a user's own column as a text; lists and objects become JSON."""
    if isinstance(value, (list, dict)):
        return json_codec.dumps(value).decode()
    return cell_text(value)
