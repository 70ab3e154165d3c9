"""Rows as a Parquet file, written by pyarrow."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from oellm.core.display import parse_time
from oellm.core.tables import Values
from oellm.errors import InputError, MachineError

# Rows in a row group, the number that is in memory at a time.
_ROW_GROUP = 100_000


def write_rows(rows: Iterable[Values], types: Mapping[str, str], stream: BinaryIO) -> None:
    """Write rows as Parquet; `types` maps each column to its type in schema.json.

    Raises MachineError if pyarrow is missing, InputError for a value not of its column's type.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MachineError(
            f"--format=parquet needs pyarrow: pip install pyarrow ({error})"
        ) from None
    of_type = {
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "time": pyarrow.timestamp("ms", tz="UTC"),
    }
    times = [kind == "time" for kind in types.values()]
    fields = [(column, of_type.get(kind, pyarrow.string())) for column, kind in types.items()]
    schema = pyarrow.schema(fields)
    rows = iter(rows)
    with parquet.ParquetWriter(stream, schema) as writer:
        while batch := list(itertools.islice(rows, _ROW_GROUP)):
            arrays = []
            columns = zip(fields, zip(*batch, strict=True), times, strict=True)
            for (column, kind), cells, is_time in columns:
                values = list(map(_moment if is_time else _encodable, cells))
                try:
                    arrays.append(pyarrow.array(values, kind))
                except (pyarrow.ArrowException, TypeError, OverflowError) as error:
                    raise InputError(
                        f"expected values of type {kind}: {error}", column=column
                    ) from None
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _encodable(value: Any) -> Any:
    # Python holds the bytes of a path that are not UTF-8 as lone surrogates.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _moment(text: Any) -> datetime.datetime | None:
    """Return the time that a text tells; None for no time."""
    try:
        return parse_time(text)
    except (TypeError, ValueError):
        return None
