"""The registry of frameworks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from oellm import frameworks
from oellm.core import schema
from oellm.errors import InputError
from oellm.manifest.rows import Row
from support.processes import ROOT

LIBRARY = ROOT / "lib" / "oellm"


def test_the_default_is_runnable_and_the_aliases_are_frameworks() -> None:
    column = schema.table("manifest")["eval_suite"]
    assert column["default"] in frameworks.runnable_names()
    assert set(column["spellings"].values()) <= set(frameworks.names())


def rows_of(*suites: str) -> list[Row]:
    cells = {"model_path": "m", "task_path": "t", "n_shot": "0"}
    return [Row({**cells, "eval_suite": s}, "x.csv", n) for n, s in enumerate(suites, 2)]


def test_rows_of_frameworks_that_are_only_read_are_left_out_and_named() -> None:
    log: list[str] = []
    rows = rows_of("", "evalchemy", "lm-eval-harness", "Evalchemy", *["evalchemy"] * 20)
    skipped: list[Row] = []
    kept = list(frameworks.select_runnable(rows, log.append, skipped=skipped))
    assert [row.line for row in kept] == [2, 4]
    assert len(skipped) == 22
    assert log == [
        "x.csv:3, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 12 more: eval_suite: oellm does not run "
        "evalchemy, it only reads its results; left out: 22 rows",
    ]


def test_a_framework_that_is_only_read_cannot_be_run() -> None:
    rows = frameworks.select_runnable(rows_of("", "evalchemy"), print)
    assert next(rows).line == 2
    with pytest.raises(
        InputError, match=r"^x\.csv:3: oellm does not run evalchemy, .* --skip_unsupported leaves"
    ):
        next(rows)
    with pytest.raises(
        InputError, match=r"^x\.csv:2: eval_suite: no row can be run: oellm does not"
    ):
        list(frameworks.select_runnable(rows_of("evalchemy"), print))
    with pytest.raises(
        InputError, match=r"^x\.csv:3: eval_suite: expected one of .*lm_eval, got 'lm"
    ):
        list(frameworks.select_runnable(rows_of("", "lm_evil"), print))
    assert list(frameworks.select_runnable([], print)) == []
    assert frameworks.native_results("evalchemy") is None
    assert frameworks.samples_reader("evalchemy") is None


def test_every_folder_of_a_framework_is_in_the_registry() -> None:
    readers = {
        str(vars(reader)["__name__"]).split(".")[-2] for reader in frameworks.result_readers()
    }
    folders = {path.parent.name for path in (LIBRARY / "frameworks").glob("*/results.py")}
    assert readers == folders


def test_importing_the_registry_imports_no_framework() -> None:
    source = Path(importlib.import_module("oellm.frameworks").__file__ or "").read_text()
    heads = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [
        line for line in heads if re.search(r"frameworks\.(?!interface|program|stages)", line)
    ]
