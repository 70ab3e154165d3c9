"""The typed view of a row has the values that its columns have, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.core import schema
from oellm.errors import InputError
from oellm.manifest import csv_file
from oellm.manifest import rows as manifest
from oellm.manifest.model_spec import ModelSpec
from oellm.manifest.rows import Row
from oellm.manifest.typed_row import TypedRow

IDENTITIES = Path(__file__).with_name("identities.csv")
# What an empty cell stands for, if the schema gives its column no default.
EMPTY = {"tp": 1, "batch_size": 1, "model_args": {}, "gen_kwargs": {}, "log_samples": False}


def test_it_has_each_value_of_the_row() -> None:
    with open(IDENTITIES, encoding="utf-8", newline="") as stream:
        rows = list(csv_file.read_rows(stream, str(IDENTITIES)))
    assert len(rows) > 80
    for row in rows:
        path, arguments = row.value("model_path")
        assert row.typed.model == ModelSpec(path, tuple(arguments.items()))
        for name in TypedRow._fields[1:]:
            value, typed = row.value(name), getattr(row.typed, name)
            if value is None:
                text = schema.table("manifest")[name]["type"] in ("text", "sources", "word")
                assert typed == EMPTY.get(name, "" if text else None), name
            else:
                assert typed == (tuple(value) if name == "seed" else value), name


def test_it_covers_every_column_that_changes_how_a_row_is_evaluated() -> None:
    table = schema.table("manifest")
    needed = {name for name, spec in table.items() if spec.get("identity") or spec.get("flag")}
    assert needed - {"model_path"} <= set(TypedRow._fields)


def test_a_bad_cell_is_named_with_its_line() -> None:
    row = Row({"model_path": "m", "task_path": "t", "n_shot": "five"}, "jobs.csv", 3)
    with pytest.raises(InputError, match=r"^jobs\.csv:3: n_shot: expected a non-negative integer"):
        _ = row.typed


def test_an_identified_row_keeps_its_view_and_a_changed_row_gets_a_new_one() -> None:
    row = Row({"model_path": "m", "task_path": "t", "n_shot": "5"})
    assert manifest.identify_row(row).typed == row.typed
    assert row.with_cells(n_shot="7").typed.n_shot == 7
    assert row.typed.n_shot == 5
