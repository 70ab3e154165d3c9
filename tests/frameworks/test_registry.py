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


def test_a_framework_that_is_only_read_cannot_be_run() -> None:
    row = Row({"model_path": "m", "task_path": "t", "n_shot": "0", "eval_suite": "lighteval"})
    with pytest.raises(InputError, match="expected one of lm_eval, got 'lighteval'"):
        frameworks.require_runnable(row)
    assert frameworks.native_results("lighteval") is None
    assert frameworks.samples_reader("lighteval") is None


def test_every_folder_of_a_framework_is_in_the_registry() -> None:
    readers = {
        str(vars(reader)["__name__"]).split(".")[-2] for reader in frameworks.result_readers()
    }
    folders = {path.parent.name for path in (LIBRARY / "frameworks").glob("*/results.py")}
    assert readers == folders


def test_importing_the_registry_imports_no_framework() -> None:
    source = Path(importlib.import_module("oellm.frameworks").__file__ or "").read_text()
    heads = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in heads if re.search(r"frameworks\.(?!interface)", line)]
