"""Records as a Parquet file, with pyarrow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from oellm.core.tables import Record
from oellm.errors import InputError, MachineError

# Records of a row group: so many are in memory at a time.
_ROW_GROUP = 100_000


def write(records: Iterable[Record], types: Mapping[str, str], stream: BinaryIO) -> None:
    """Write records as Parquet; `types` has the columns with their types as in schema.json.

    Raises MachineError without pyarrow, InputError for a value that is not of its column's type.
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
    }
    fields = [(column, of_type.get(kind, pyarrow.string())) for column, kind in types.items()]
    schema = pyarrow.schema(fields)
    records = iter(records)
    with parquet.ParquetWriter(stream, schema) as writer:
        while batch := list(itertools.islice(records, _ROW_GROUP)):
            arrays = []
            for column, kind in fields:
                values = [_encodable(record[column]) for record in batch]
                try:
                    arrays.append(pyarrow.array(values, kind))
                except (pyarrow.ArrowException, TypeError, OverflowError) as error:
                    raise InputError(
                        f"expected values of type {kind}: {error}", column=column
                    ) from None
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _encodable(value: Any) -> Any:
    # Bytes of a path that are no UTF-8 come as lone surrogates.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
