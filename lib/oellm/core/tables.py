"""Rows as CSV, JSON, Parquet, or a table for people or papers."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, BinaryIO, NamedTuple, TextIO

from oellm.core import display, json_codec
from oellm.core.csv_records import csv_text
from oellm.core.display import parse_time, text_width
from oellm.errors import InputError, MachineError, UsageError

# One value for each column.
Values = Sequence[Any]

# Layouts that are written row by row, for programs; and tables, for people.
BY_LINE = ("csv", "jsonl")
STREAMED = (*BY_LINE, "json")
TABLES = ("table", "markdown", "latex", "html")

_EMPTY = (None, "", "none")
# Rows in a row group, the number that is in memory at a time.
_ROW_GROUP = 100_000
# Blanks between two columns.
_GAP = 2


def choose_format(
    asked: str | None, stream: TextIO, formats: Sequence[str], *, piped: str = "csv"
) -> str:
    """Return the format to write: what is asked for, else table on a terminal, else `piped`.

    Raises UsageError unless it is one of `formats`.
    """
    layout = asked or ("table" if stream.isatty() else piped)
    if layout not in formats:
        raise UsageError(f"--format: expected one of {', '.join(formats)}, got {layout!r}")
    return layout


def write_rows(
    rows: Iterable[Values],
    columns: Sequence[str],
    layout: str,
    stream: TextIO,
    *,
    counts: Container[str] = (),
    caption: Sequence[str] = (),
    spare: Sequence[str] | None = None,
) -> None:
    """Write rows in one of STREAMED, which stream, or of TABLES, which buffer.

    Tables leave out columns in which no row has a value. They show the numbers of a column with
    four decimals if one of them is a float, except in the columns `counts`, and the lines of the
    caption. On a terminal, no layout has control characters.

    If `spare` is given, the layout `table` fits the terminal: columns go above it if all
    rows have the same text in them, or those in `spare` are left out, the first one first.
    """
    out = display.guard_terminal(stream)
    if layout in BY_LINE:
        out.write(format_head(columns, layout))
        for row in rows:
            out.write(format_lines([row], columns, layout))
    elif layout == "json":
        before = "[\n"
        for row in rows:
            out.write(before + _json(row, columns))
            before = ",\n"
        out.write("[]\n" if before == "[\n" else "\n]\n")
    else:
        width = 0
        if layout == "table" and spare is not None and stream.isatty():
            width = os.get_terminal_size(stream.fileno()).columns
        shape = _Shape(counts, caption, width=width, spare=spare or ())
        for text in _table(list(rows), columns, layout, shape=shape):
            out.write(text)


def write_parquet(rows: Iterable[Values], types: Mapping[str, str], stream: BinaryIO) -> None:
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


def select_values(objects: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[Values]:
    """Yield the values that each object has in these columns."""
    return ([each[column] for column in columns] for each in objects)


def select_fields(
    records: Iterable[tuple[Any, ...]], columns: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the values that each of some NamedTuples has in these columns."""
    if len(columns) == 1:
        return ((getattr(record, columns[0]),) for record in records)
    return map(attrgetter(*columns), records)


def format_head(columns: Sequence[str], layout: str) -> str:
    """Return what comes before the lines of a layout of BY_LINE."""
    return _csv([columns]) if layout == "csv" else ""


def format_lines(rows: Iterable[Values], columns: Sequence[str], layout: str) -> str:
    """Return a line for each row, in a layout of BY_LINE."""
    if layout == "csv":
        return _csv(rows)
    return "".join(_json(row, columns) + "\n" for row in rows)


def cell_text(value: Any) -> str:
    """Return a value as CSV shows it: JSON's spelling of true and false, empty for None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _csv(rows: Iterable[Values]) -> str:
    # Spelled as by `cell_text`; csv itself writes True and False.
    return csv_text(
        ["true" if value is True else "false" if value is False else value for value in row]
        for row in rows
    )


def _json(row: Values, columns: Sequence[str]) -> str:
    return json_codec.dumps(dict(zip(columns, row, strict=True))).decode()


class _Shape(NamedTuple):
    """What a table has besides its rows; a `width` of 0 is unlimited."""

    counts: Container[str]
    caption: Sequence[str]
    width: int
    spare: Sequence[str]


def _table(
    rows: list[Values], columns: Sequence[str], layout: str, *, shape: _Shape
) -> Iterator[str]:
    """Yield the parts of a table."""
    from oellm.core.markup import MARKUPS, ScoreCell

    markup = MARKUPS[layout]
    kept = [
        place
        for place in range(len(columns))
        if not rows or any(row[place] not in _EMPTY for row in rows)
    ]
    # Names are aligned left, also if some of them look like numbers.
    is_right = [not any(isinstance(row[place], (str, bool)) for row in rows) for place in kept]
    heads = [markup.escape(columns[place]) for place in kept]
    # A score of 1 is shown as 1.0000 beside others, but 4 documents as 4, also beside 0.5.
    has_decimals = [
        columns[place] not in shape.counts and any(isinstance(row[place], float) for row in rows)
        for place in kept
    ]

    def shown(value: Any, decimals: bool) -> str:
        if isinstance(value, ScoreCell):
            return markup.score(value)
        if decimals and isinstance(value, (int, float)):
            return f"{value:.4f}"
        return markup.escape(cell_text(value))

    cells = [list(map(shown, [row[place] for place in kept], has_decimals)) for row in rows]
    below = [markup.escape(text) for text in shape.caption]
    if layout == "latex":
        yield from _latex(heads, cells, is_right, caption=below)
    elif layout == "html":
        yield from _html(heads, cells, is_right, caption=below)
    else:
        if shape.width:
            fitted = _fit_columns(heads, cells, shape.width, spare=shape.spare)
            yield from (f"{heads[place]}: {cells[0][place]}\n" for place in fitted.above)
            yield "\n" if fitted.above else ""
            if fitted.left_out:
                hidden = ", ".join(heads[place] for place in fitted.left_out)
                below = [*below, f"Not shown on a terminal this narrow: {hidden}"]
            heads = [heads[place] for place in fitted.kept]
            cells = [[row[place] for place in fitted.kept] for row in cells]
            is_right = [is_right[place] for place in fitted.kept]
        yield _tabulated(heads, cells, is_right, layout=layout) + "\n"
        # Two blanks at the end of a line keep it apart from the next one in markdown.
        end = "  \n" if layout == "markdown" else "\n"
        yield "\n" + end.join(below) + "\n" if below else ""


class _FittedColumns(NamedTuple):
    """What becomes of the columns of a table.

    Attributes:
        kept: Places of the columns of the table.
        above: Places of the columns whose one text is shown above it.
        left_out: Places of the columns that are not shown.
    """

    kept: list[int]
    above: list[int]
    left_out: list[int]


def _fit_columns(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, spare: Sequence[str]
) -> _FittedColumns:
    """Return how a table of these texts becomes as narrow as `width`, or nearly so.

    `spare` names the columns that a reader misses least, the least important one first. The first
    column always stays.
    """
    widths = [max(map(text_width, column)) for column in zip(heads, *rows, strict=True)]
    excess = sum(widths) + _GAP * (len(heads) - 1) - width
    fitted = _FittedColumns(list(range(len(heads))), [], [])
    constant = [place for place in fitted.kept[1:] if len({row[place] for row in rows}) == 1]
    dispensable = [heads.index(name) for name in spare if name in heads[1:]]
    for places, moved in (
        (sorted(constant, key=lambda place: -widths[place]) if len(rows) > 1 else [], fitted.above),
        (dispensable, fitted.left_out),
    ):
        for place in places:
            if excess <= 0 or place not in fitted.kept:
                continue
            fitted.kept.remove(place)
            moved.append(place)
            excess -= widths[place] + _GAP
    fitted.above.sort()
    return fitted


def _tabulated(
    heads: Sequence[str], rows: Sequence[Sequence[str]], is_right: Sequence[bool], *, layout: str
) -> str:
    import tabulate

    # It would make each column two letters wider than its head, on terminals of 80.
    tabulate.MIN_PADDING = 2 if layout == "markdown" else 0
    return tabulate.tabulate(
        rows,
        headers=heads,
        tablefmt="github" if layout == "markdown" else "simple",
        colalign=["right" if right else "left" for right in is_right] if rows else None,
        disable_numparse=True,
    )


def _latex(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    is_right: Sequence[bool],
    *,
    caption: Sequence[str],
) -> Iterable[str]:
    """Yield the lines of a LaTeX tabular that needs the package booktabs."""
    yield f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in is_right)}}}\n"
    yield f"\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n"
    for row in rows:
        yield " & ".join(row) + " \\\\\n"
    yield "\\bottomrule\n"
    for text in caption:
        yield f"\\multicolumn{{{len(heads)}}}{{l}}{{\\footnotesize {text}}} \\\\\n"
    yield "\\end{tabular}\n"


def _html(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    is_right: Sequence[bool],
    *,
    caption: Sequence[str],
) -> Iterable[str]:
    """Yield the lines of an HTML table element."""
    right = ' style="text-align: right"'

    def line(kind: str, cells: Sequence[str]) -> str:
        parts = (
            f"<{kind}{right if aligned else ''}>{cell}</{kind}>"
            for cell, aligned in zip(cells, is_right, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>\n"

    described = f"<caption>{'<br>'.join(caption)}</caption>\n" if caption else ""
    yield f"<table>\n{described}<thead>\n{line('th', heads)}</thead>\n<tbody>\n"
    for row in rows:
        yield line("td", row)
    yield "</tbody>\n</table>\n"


def _encodable(value: Any) -> Any:
    # Python holds the bytes of a path that are not UTF-8 as lone surrogates.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _moment(text: Any) -> datetime.datetime | None:
    """Return the time that a text tells; None for no time."""
    try:
        return parse_time(text)
    except (TypeError, ValueError):
        return None
