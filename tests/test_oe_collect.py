"""oe-collect: formats, what is damaged, what is missing, what counts as primary."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from golden_files import GOLDEN, assert_golden
from oellm.frameworks.lm_eval.results import metrics
from processes import Run

LINES = (GOLDEN / "contract" / "results.jsonl").read_text()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    shutil.copytree(GOLDEN / "contract" / "run", directory)
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"run_dir": str(directory)}))
    return directory


@pytest.mark.parametrize("layout", ["table", "markdown", "jsonl"])
def test_each_format_is_golden(run: Run, run_dir: Path, layout: str) -> None:
    done = run("oe-collect", f"--format={layout}", run_dir)
    assert_golden(f"collected.{layout}", done.stdout.replace(str(run_dir), "/evals/ada/run"))
    assert done.stderr == f"oe-collect: {run_dir}: 1 of 3 rows have no result yet\n"


def test_formats_agree(run: Run, run_dir: Path) -> None:
    table = list(csv.DictReader(io.StringIO(run("oe-collect", run_dir).stdout)))
    lines = run("oe-collect", "--format=jsonl", run_dir).stdout.splitlines()
    for row, record in zip(table, map(json.loads, lines), strict=True):
        assert list(row) == list(record)
        for column, value in record.items():
            text = {None: "", True: "true", False: "false"}.get(value, str(value))
            assert row[column] == text if not isinstance(value, (int, float)) else True
        assert float(row["value"]) == record["value"]


def test_columns_can_be_chosen_and_are_checked(run: Run, run_dir: Path) -> None:
    done = run("oe-collect", "--columns=task,value", run_dir)
    assert done.stdout.splitlines()[0] == "task,value"
    refused = run("oe-collect", "--columns=task,valeu", run_dir, status=2)
    assert (
        refused.stderr
        == "oe-collect: --columns: no column is called 'valeu', did you mean value?\n"
    )
    layout = run("oe-collect", "--format=xml", run_dir, status=2)
    assert "expected one of csv, jsonl, table, markdown, got 'xml'" in layout.stderr


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "it is not JSON"),
        (lambda text: text[: len(text) // 2], "it is not JSON"),
        (lambda text: "[1, 2]", "it has no key oellm"),
        (lambda text: text.replace('"value": 0.5', '"value": NaN'), "it is not JSON"),
        (lambda text: text.replace('"value": 0.5', '"value": null'), "the value of acc is None"),
        (lambda text: text.replace('"value": 0.5', '"value": "0.5"'), "the value of acc is '0.5'"),
        (lambda text: text.replace("ef253598e9c37ffe", "0" * 16), "its eval_id is '0000"),
        (lambda text: text.replace('"status": "done"', '"status": "x"'), "its status is 'x'"),
    ],
)
def test_a_damaged_result_is_named_and_the_rest_collected(
    run: Run, run_dir: Path, damage: Any, reason: str
) -> None:
    path = run_dir / "results" / "ef253598e9c37ffe.json"
    path.write_text(damage(path.read_text()))
    done = run("oe-collect", "--columns=task", run_dir, status=1)
    assert f"oe-collect: {path}: left out, {reason}" in done.stderr
    assert done.stdout.splitlines() == ["task", "oellm_prose"]
    missing = run("oe-collect", "--missing", run_dir).stdout.splitlines()
    assert [line.split(",")[1] for line in missing[1:]] == ["oellm_choice", "no_such_task"]


def test_a_row_is_missing_only_if_no_run_has_it(run: Run, run_dir: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(run_dir, second)
    (run_dir / "results" / "ef253598e9c37ffe.json").unlink()
    (second / "results" / "491ba463633eca78.json").unlink()
    done = run("oe-collect", "--missing", run_dir, second)
    assert [line.split(",")[1] for line in done.stdout.splitlines()[1:]] == ["no_such_task"]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "stdin: expected result or run objects, got nothing"),
        ("{}\n{\n", "stdin:1: expected a result object or a run object"),
        (LINES + "{\n", "stdin:4:"),
        ("[1]\n", "stdin:1: expected a result or run object"),
        ('{"oellm": 1}\n', "stdin:1: oellm: expected an object"),
        ('{"run_dir": "/no/such/run"}\n', "/no/such/run: no run directory: run.json is missing"),
    ],
)
def test_bad_lines_are_named(run: Run, stdin: str, message: str) -> None:
    assert f"oe-collect: {message}" in run("oe-collect", stdin=stdin, status=2).stderr


def test_bad_run_directory_stops_before_half_a_table(run: Run, run_dir: Path) -> None:
    done = run("oe-collect", run_dir, "/no/such/run", status=2)
    assert done.stdout == ""
    assert done.stderr == "oe-collect: /no/such/run: no run directory: run.json is missing\n"


def test_the_rows_own_choice_of_metric_is_primary(run: Run) -> None:
    first = json.loads(LINES.splitlines()[0])
    first["oellm"]["row"]["primary_metric"] = "acc_norm"
    done = run("oe-collect", "--columns=metric,is_primary", stdin=json.dumps(first))
    assert done.stdout.splitlines()[1:] == ["acc,false", "acc_norm,true"]


def test_groups_take_shots_and_counts_from_their_leaves() -> None:
    """The shape of mmlu: groups in groups, whose own entries lack shots and counts."""
    native = {
        "results": {
            "mmlu": {"alias": "mmlu", "acc,none": 0.5, "acc_stderr,none": 0.01, "sample_len": 6},
            "mmlu_stem": {"acc,none": 0.25, "acc_stderr,none": "N/A"},
            "mmlu_algebra": {"acc,none": 0.25, "acc_stderr,none": float("nan")},
            "mmlu_law": {"acc,none": 0.75, "acc_stderr,none": 0.1, "note,none": "x"},
        },
        "group_subtasks": {"mmlu": ["mmlu_stem", "mmlu_law"], "mmlu_stem": ["mmlu_algebra"]},
        "n-shot": {"mmlu_algebra": 5, "mmlu_law": 5},
        "n-samples": {
            "mmlu_algebra": {"original": 4, "effective": 4},
            "mmlu_law": {"original": 9, "effective": 2},
        },
        "higher_is_better": {"mmlu_law": {"acc": True}},
    }
    found = {metric["task"]: metric for metric in metrics(native, "mmlu")}
    assert [found["mmlu"][key] for key in ("group", "n_shot", "n_samples")] == ["", 5, 6]
    assert [found["mmlu_stem"][key] for key in ("group", "stderr", "n_samples")] == [
        "mmlu",
        None,
        4,
    ]
    assert found["mmlu_algebra"]["stderr"] is None
    assert found["mmlu_law"] == {
        "task": "mmlu_law",
        "group": "mmlu",
        "n_shot": 5,
        "metric": "acc",
        "filter": "none",
        "value": 0.75,
        "stderr": 0.1,
        "higher_is_better": True,
        "n_samples": 2,
    }
