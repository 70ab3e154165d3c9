"""The registry of frameworks, and the rule that only an adapter knows its framework."""

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
# Modules that may name lm-eval: its adapter, and the table of adapters.
KNOWING = (LIBRARY / "frameworks" / "lm_eval", LIBRARY / "frameworks" / "__init__.py")


def names_lm_eval(text: str) -> bool:
    return bool(re.search(r"lm[_-]?eval", text, re.IGNORECASE))


def test_only_its_adapter_and_the_registry_name_lm_eval() -> None:
    paths = [
        path
        for path in LIBRARY.rglob("*.py")
        if not any(path.is_relative_to(allowed) for allowed in KNOWING)
    ]
    assert len(paths) > 100
    assert [str(path) for path in paths if names_lm_eval(path.read_text())] == []


@pytest.mark.parametrize("text", ["import lm_eval", "# as lm-eval does", "LMEVAL_X", "LmEvalModel"])
def test_what_names_lm_eval_is_found(text: str) -> None:
    assert names_lm_eval(text)


def test_the_default_and_the_aliases_are_runnable_frameworks() -> None:
    column = schema.table("manifest")["eval_suite"]
    known = {column["default"], *column["spellings"].values()}
    assert known <= set(frameworks.runnable_names())


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
