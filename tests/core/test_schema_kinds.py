"""Kinds of values: each type of schema.json has one, and says what is no value of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oellm.core import schema
from oellm.core.schema import KINDS
from oellm.errors import InputError
from oellm.manifest import cells
from oellm.manifest.rows import Row


def test_each_type_of_the_schema_is_a_kind() -> None:
    for table, specs in schema.tables().items():
        for name, spec in specs.items():
            assert spec["type"] in {*KINDS, *cells._PARSERS}, (table, name)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "5", 5),
        ("integer", " -5 ", -5),
        ("integer", "5.0", 5),
        ("number", "5e-1", 0.5),
        ("count", "007", 7),
        ("count", "5.0", 5),
        ("positive", "7", 7),
        ("boolean", "True", True),
        ("duration", "1-12:00:00", "1-12:00:00"),
        ("list", "/a, /b", ["/a", "/b"]),
        ("list", '["a,b"]', ["a,b"]),
        ("map", '{"a": null}', {"a": None}),
    ],
)
def test_a_text_has_a_value(kind: str, text: str, value: Any) -> None:
    parsed = KINDS[kind].parse(text)
    assert (parsed, type(parsed)) == (value, type(value))
    # What was parsed once is a value of the kind.
    assert KINDS[kind].check(json.loads(json.dumps(value))) == value


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", ["٣", "1_0", "", "1.5", "nan", "9" * 5000, True, 1.5, None, [1]]),
        ("number", ["٣", "1_0", "inf", "1e999", "x", True, None, float("nan"), 10**400]),
        ("count", ["-1", "٣", "+1", "1.5", "1_0", -1, True]),
        ("positive", ["0", "٣", 0]),
        ("boolean", ["1", "yes", 1, None]),
        ("duration", ["٣:00", "1 day", "", 5, "1" * 5000]),
        ("word", ["two words", "", 1]),
        ("text", [1, None, ["x"]]),
    ],
)
def test_what_is_no_value_is_named_with_what_was_expected(kind: str, values: list[Any]) -> None:
    for value in values:
        read = KINDS[kind].parse if isinstance(value, str) else KINDS[kind].check
        with pytest.raises(ValueError) as error:
            read(value)
        assert str(error.value) == str(schema.unexpected(KINDS[kind].meaning, value))


@pytest.mark.parametrize("column", ["n_shot", "tp", "limit", "batch_size", "seed", "n_docs"])
def test_digits_in_cells_are_ascii(column: str) -> None:
    row = Row({"model_path": "m", "task_path": "t", column: "٣"}, "jobs.csv", 2)
    with pytest.raises(InputError, match=rf"^jobs\.csv:2: {column}: expected "):
        row.value(column)
