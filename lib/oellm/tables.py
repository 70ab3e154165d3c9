"""Records as CSV, JSON lines, or a table for people."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from oellm import json_codec

Record = dict[str, Any]

STREAMED = ("csv", "jsonl")
FORMATS = (*STREAMED, "table", "markdown")


def write(records: Iterable[Record], columns: Sequence[str], layout: str, stream: TextIO) -> None:
    """Write records in one of FORMATS; csv and jsonl stream, tables buffer.

    Tables leave out columns in which no record has a value.
    """
    if layout == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for record in records:
            writer.writerow([_cell(record[column]) for column in columns])
    elif layout == "jsonl":
        for record in records:
            stream.write(json_codec.dumps({c: record[c] for c in columns}).decode() + "\n")
    else:
        _write_table(list(records), columns, layout, stream)


def _write_table(
    records: list[Record], columns: Sequence[str], layout: str, stream: TextIO
) -> None:
    import tabulate

    empty = (None, "", "none")
    shown = [c for c in columns if any(record[c] not in empty for record in records)]
    rows = [[record[column] for column in shown] for record in records]
    text = tabulate.tabulate(
        rows,
        headers=shown,
        tablefmt="github" if layout == "markdown" else "simple",
        floatfmt=".4f",
        missingval="",
        # Names stay as they are, also those that look like numbers.
        disable_numparse=[i for i in range(len(shown)) if any(isinstance(r[i], str) for r in rows)],
    )
    stream.write(text + "\n")


def _cell(value: Any) -> Any:
    """Return a value as CSV has it: JSON's spelling of true and false, empty for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
