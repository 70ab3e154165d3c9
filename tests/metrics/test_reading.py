"""Reading metric records: every format returns what was written, and errors name their place."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.core import schema, tables
from oellm.errors import InputError
from oellm.metrics import reading
from oellm.metrics import records as metric_records
from oellm.metrics.records import MetricRecord
from support.score_lines import LINES, records

# Before Python 3.11 a CSV cell cannot hold NUL.
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "word": TEXTS,
    "time": TEXTS,
    "eval_id": TEXTS,
    "number": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "integer": st.none() | st.integers(-(2**53), 2**53),
    "boolean": st.none() | st.booleans(),
}
COLUMNS = {name: VALUES[spec["type"]] for name, spec in schema.table("metric").items()}
REQUIRED = {
    "model_path": TEXTS.filter(bool),
    "task": TEXTS.filter(bool),
    "metric": TEXTS.filter(bool),
    "value": st.floats(allow_nan=False, allow_infinity=False),
}
FIELDS = {**COLUMNS, **REQUIRED, "extra": st.just({})}
RECORDS = st.lists(st.builds(MetricRecord, **FIELDS), max_size=2)
HEADER = "model_path,task,metric,value"
GOOD = f"{HEADER}\nm,t,acc,0.5\n"


def read(text: str) -> list[MetricRecord]:
    # newline="": cli.open_input leaves line ends as they are, too.
    return list(reading.read_metric_records(io.StringIO(text, newline=""), "stdin"))


def written(found: list[MetricRecord], layout: str) -> str:
    stream = io.StringIO(newline="")
    columns = metric_records.column_names()
    rows = metric_records.select_columns(found, columns)
    tables.write_rows(rows, columns, layout, stream)
    return stream.getvalue()


def typed(found: list[MetricRecord]) -> list[dict[str, tuple[type, Any]]]:
    """Return records with types, so that 1 and True differ."""
    return [
        {name: (type(value), value) for name, value in each._asdict().items()} for each in found
    ]


@pytest.mark.parametrize("layout", tables.STREAMED)
@given(RECORDS)
@settings(max_examples=25)
def test_what_is_printed_reads_back_equal(layout: str, found: list[MetricRecord]) -> None:
    text = written(found, layout)
    # JSON lines of no records are an empty text, which the reader refuses.
    if text:
        assert typed(read(text)) == typed(found)


@pytest.mark.parametrize("layout", tables.STREAMED)
def test_collected_records_read_back_equal(layout: str) -> None:
    found = records(LINES)
    assert read(written(found, layout)) == found


def test_what_other_tools_write_means_the_same() -> None:
    """Columns in another order, missing or unknown; 5.0 for 5; True for true; CRLF for LF."""
    text = (
        "value,n_shot,metric,is_primary,model_path,task,note\r\n1,5.0,acc,True,m,t,\r\n"
        "\r\n5e-1,,acc,FALSE,m,t,007"
    )
    first, second = read(text)
    usual = MetricRecord(model_path="m", task="t", metric="acc")
    assert first == usual._replace(value=1, n_shot=5, is_primary=True)
    # A column that oellm does not know is the user's own; what it holds stays text.
    assert second == usual._replace(value=0.5, is_primary=False, extra={"note": "007"})
    assert type(first.n_shot) is int
    line = '{"model_path":"m","task":"t","metric":"acc","value":1,"n_shot":5.0,"limit":null}'
    assert read(f"{line}\n\n") == read(f" [\n{line}\n]") == [usual._replace(value=1, n_shot=5)]


@pytest.mark.parametrize("layout", ["csv", "jsonl"])
def test_records_are_yielded_before_the_input_ends(layout: str) -> None:
    line = written(records(LINES)[:1], layout)

    def endless() -> Iterator[str]:
        yield from line.splitlines(keepends=True)
        yield from itertools.repeat(line.splitlines(keepends=True)[-1])

    first = itertools.islice(reading.read_metric_records(endless(), "stdin"), 1000)
    assert len(list(first)) == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stdin: expected metric records, got nothing"),
        ("model_path,task,value\n", "stdin:1: metric: required column is missing"),
        (f"{HEADER},task\n", "stdin:1: task: the column occurs twice"),
        ("<html>\n", "stdin:1: model_path: required column is missing; the header is '<html>'"),
        (f"{GOOD}m,t,acc\n", "stdin:3: expected 4 cells as in the header, got 3"),
        (f"{GOOD}m,t,acc,1,2\n", "stdin:3: expected 4 cells as in the header, got 5"),
        (f"{GOOD}m,t,acc,n/a\n", "stdin:3: value: expected a number, got 'n/a'"),
        (f"{GOOD}m,t,acc,nan\n", "stdin:3: value: expected a number, got 'nan'"),
        (f"{GOOD}m,t,acc,٣\n", "stdin:3: value: expected a number, got '٣'"),
        (f"{GOOD}m,t,acc,1_0\n", "stdin:3: value: expected a number, got '1_0'"),
        (f"{GOOD}m,t,acc,\n", "stdin:3: value: expected a value, got none"),
        (f"{GOOD},t,acc,1\n", "stdin:3: model_path: expected a value, got none"),
        # A cell may span lines; an error names the first line of its record.
        (f'{GOOD}"m\nn",t,acc,1\n"m\nn",t,acc,x\n', "stdin:5: value: expected a number"),
        (f'{GOOD}"m,t,acc,1\n', "stdin:3: expected CSV: "),
        (f'{GOOD}"m"x,t,acc,1\n', "stdin:3: expected CSV: "),
        (f'{GOOD}"{"m" * 2**20}m",t,acc,1\n', "stdin:3: expected CSV: a cell has more than"),
        (f"{HEADER},n_shot\nm,t,acc,1,5.5\n", "stdin:2: n_shot: expected an integer, got '5.5'"),
        (f"{HEADER},is_primary\nm,t,acc,1,1\n", "stdin:2: is_primary: expected true or false"),
        ('{"model_path":"m","task":"t","metric":"acc"}', "stdin:1: value: this key of a metric"),
        (
            '{"model_path":"m","task":"t","metric":"acc","value":1}\n{"task":',
            "stdin:2:9: expected a JSON object on each line: ",
        ),
        ("{}\n[]", "stdin:1: model_path: this key of a metric record is missing"),
        (
            '{"model_path":["m"],"task":"t","metric":"acc","value":1}',
            "stdin:1: model_path: expected text, got ['m']",
        ),
        (
            '{"model_path":"m","task":"t","metric":"acc","value":true}',
            "stdin:1: value: expected a number, got True",
        ),
        (
            '{"model_path":"m","task":"t","metric":"acc","value":1,"is_primary":"yes"}',
            "stdin:1: is_primary: expected true or false, got 'yes'",
        ),
        ("[1]", "stdin: record 1: expected a metric record, an object"),
        ("[\n{},\n", "stdin:3:1: expected a JSON array: "),
    ],
)  # fmt: skip
def test_errors_name_the_place_of_bad_input(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(text)
    assert str(error.value).startswith(message)


def test_a_bad_line_ends_the_reading() -> None:
    found = reading.read_metric_records(
        iter([f"{HEADER}\n", "m,t,acc,1\n", "m,t,acc,x\n"]), "stdin"
    )
    assert next(found).value == 1
    with pytest.raises(InputError, match="stdin:3: value: "):
        next(found)


def test_text_other_than_utf_8_is_refused() -> None:
    stream = io.TextIOWrapper(io.BytesIO(GOOD.encode() + b"\xff"), encoding="utf-8")
    with pytest.raises(InputError, match="stdin: expected UTF-8 text, got byte 0xff"):
        list(reading.read_metric_records(stream, "stdin"))
