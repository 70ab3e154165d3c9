"""CSV with a header, read with the place of each error and written for any reader."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.core.csv_records import CsvReader, csv_text
from oellm.errors import InputError


def read(text: str, *required: str) -> list[tuple[int, list[str]]]:
    return list(CsvReader(io.StringIO(text, newline=""), "x.csv", required))


def test_a_record_has_the_line_on_which_it_begins() -> None:
    text = 'a,b\n1,"two\nlines"\n\n3,4\n'
    assert read(text) == [(2, ["1", "two\nlines"]), (5, ["3", "4"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv: expected a CSV header, got nothing"),
        ("b\n1\n", "x.csv:1: a: required column is missing; the header is 'b'"),
        ("a,a\n1,2\n", "x.csv:1: a: the column occurs twice in the header"),
        ("a,b\n1,2\n3\n", "x.csv:3: expected 2 cells as in the header, got 1"),
        ('a,b\n1,"2"3\n', "x.csv:2: expected CSV: "),
        ("a\n" + "x" * 2**21, "x.csv:2: expected CSV: a cell has more than 1048576 characters"),
    ],
)
def test_bad_csv_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(text, "a")
    assert str(error.value).startswith(message)


def test_a_byte_that_is_not_utf_8_is_named_with_its_line() -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"a\n1\n2\n\xff\n"), encoding="utf-8", newline="")
    with pytest.raises(InputError, match=r"x.csv:4: expected UTF-8 text, got byte 0xff"):
        list(CsvReader(stream, "x.csv"))


cells = st.text(alphabet=st.sampled_from('a,"\r\n '), max_size=6)


@given(st.lists(st.tuples(cells, cells), min_size=1))
def test_what_is_written_is_read_back(rows: list[tuple[str, str]]) -> None:
    text = csv_text([("x", "y"), *rows])
    assert text.startswith("x,y\n")
    assert [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))][1:] == rows
    assert [tuple(row) for _, row in read(text)] == rows
