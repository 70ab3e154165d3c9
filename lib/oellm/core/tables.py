"""Records as CSV, JSON, or a table for people or papers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from oellm.core import json_codec, schema
from oellm.core.csv_records import csv_text

Record = dict[str, Any]

# Layouts that are written record by record, for programs; and those that are tables, to be read.
BY_LINE = ("csv", "jsonl")
STREAMED = (*BY_LINE, "json")
TABLES = ("table", "markdown", "latex", "html")


def write(records: Iterable[Record], columns: Sequence[str], layout: str, stream: TextIO) -> None:
    """Write records in one of STREAMED, which stream, or TABLES, which buffer.

    Tables leave out columns in which no record has a value, and show numbers with four decimals.
    """
    if layout in BY_LINE:
        stream.write(head(columns, layout))
        for record in records:
            stream.write(lines([record], columns, layout))
    elif layout == "json":
        before = "[\n"
        for record in records:
            stream.write(before + _json(record, columns))
            before = ",\n"
        stream.write("[]\n" if before == "[\n" else "\n]\n")
    else:
        _write_table(list(records), columns, layout, stream)


def head(columns: Sequence[str], layout: str) -> str:
    """Return what comes before the lines of a layout of BY_LINE."""
    return _csv([columns]) if layout == "csv" else ""


def lines(records: Iterable[Record], columns: Sequence[str], layout: str) -> str:
    """Return a line for each record, in a layout of BY_LINE."""
    if layout == "csv":
        return _csv(map(record.__getitem__, columns) for record in records)
    return "".join(_json(record, columns) + "\n" for record in records)


def text(value: Any) -> str:
    """Return a value as CSV has it: JSON's spelling of true and false, empty for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    # As `text` has them: csv itself spells true and false as Python does.
    return csv_text(
        ["true" if value is True else "false" if value is False else value for value in row]
        for row in rows
    )


def _json(record: Record, columns: Sequence[str]) -> str:
    return json_codec.dumps({column: record[column] for column in columns}).decode()


def _write_table(
    records: list[Record], columns: Sequence[str], layout: str, stream: TextIO
) -> None:
    from oellm.core.markup import MARKUPS, Score

    markup = MARKUPS[layout]
    empty = (None, "", "none")
    kept = [c for c in columns if not records or any(record[c] not in empty for record in records)]
    # Names stay on the left, also those that look like numbers.
    is_right = [not any(isinstance(record[c], (str, bool)) for record in records) for c in kept]
    heads = [markup.escape(column) for column in kept]
    # A score of 1 is one of 1.0000 beside others; 4 documents are 4 beside half of them.
    has_decimals = [
        "unit" not in schema.table("metric").get(column, {})
        and any(isinstance(record[column], float) for record in records)
        for column in kept
    ]

    def shown(value: Any, decimals: bool) -> str:
        if isinstance(value, Score):
            return markup.score(value)
        if decimals and isinstance(value, (int, float)):
            return f"{value:.4f}"
        return markup.escape(text(value))

    rows = [list(map(shown, map(record.__getitem__, kept), has_decimals)) for record in records]
    if layout == "latex":
        stream.writelines(_latex(heads, rows, is_right))
    elif layout == "html":
        stream.writelines(_html(heads, rows, is_right))
    else:
        stream.write(_tabulated(heads, rows, is_right, layout) + "\n")


def _tabulated(
    heads: Sequence[str], rows: Sequence[Sequence[str]], is_right: Sequence[bool], layout: str
) -> str:
    import tabulate

    return tabulate.tabulate(
        rows,
        headers=heads,
        tablefmt="github" if layout == "markdown" else "simple",
        colalign=["right" if right else "left" for right in is_right] if rows else None,
        disable_numparse=True,
    )


def _latex(
    heads: Sequence[str], rows: Sequence[Sequence[str]], is_right: Sequence[bool]
) -> Iterable[str]:
    """Yield the lines of a tabular with the rules of the package booktabs."""
    yield f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in is_right)}}}\n"
    yield f"\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n"
    for row in rows:
        yield " & ".join(row) + " \\\\\n"
    yield "\\bottomrule\n\\end{tabular}\n"


def _html(
    heads: Sequence[str], rows: Sequence[Sequence[str]], is_right: Sequence[bool]
) -> Iterable[str]:
    """Yield the lines of a table element."""
    right = ' style="text-align: right"'

    def line(kind: str, cells: Sequence[str]) -> str:
        parts = (
            f"<{kind}{right if aligned else ''}>{cell}</{kind}>"
            for cell, aligned in zip(cells, is_right, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>\n"

    yield f"<table>\n<thead>\n{line('th', heads)}</thead>\n<tbody>\n"
    for row in rows:
        yield line("td", row)
    yield "</tbody>\n</table>\n"
