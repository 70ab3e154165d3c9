"""oe-collect: formats, what is damaged, what is missing, what counts as primary."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.golden_files import GOLDEN, assert_golden
from support.processes import Run

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
    assert done.stderr == "oe-collect: 1 of 3 rows have no valid result\n"


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
    formats = "csv, jsonl, json, table, markdown, latex, html, parquet"
    assert f"expected one of {formats}, got 'xml'" in layout.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "it is empty"),
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


@pytest.mark.slow
def test_two_runs_are_compared(run: Run, run_dir: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(run_dir, second)
    path = second / "results" / "491ba463633eca78.json"
    path.write_text(path.read_text().replace('"value": 3.98', '"value": 2.98'))
    (second / "results" / "ef253598e9c37ffe.json").unlink()
    done = run("oe-collect", "--compare", run_dir, second)
    (found,) = csv.DictReader(io.StringIO(done.stdout))
    assert (found["task"], found["difference"], found["verdict"]) == (
        "oellm_prose",
        "-1.0",
        "unknown",
    )
    assert "oe-collect: not compared, 1 only in A: " in done.stderr
    done = run("oe-collect", "--compare", "--metric=acc_norm", "--format=table", run_dir, run_dir)
    assert [line.split()[-1] for line in done.stdout.splitlines()[2:]] == ["same"]
    chosen = ("--compare", "--filter_a=step=1000", "--filter_b=step=2000")
    refused = run("oe-collect", *chosen, run_dir, run_dir, status=2)
    assert "B" in refused.stderr


@pytest.mark.slow
def test_what_was_printed_can_be_read_again(run: Run, run_dir: Path) -> None:
    for layout in ("csv", "jsonl", "json"):
        text = run("oe-collect", f"--format={layout}", run_dir).stdout
        assert run("oe-collect", f"--format={layout}", stdin=text).stdout == text
    options = ("--pivot", "--metric=acc_norm", "--filter=task=*choice")
    from_run = run("oe-collect", *options, run_dir).stdout
    assert from_run == "model_path,oellm_choice (0)\n/models/tiny/iter_0001000,0.75\n"
    assert run("oe-collect", *options, stdin=text).stdout == from_run
    refused = run("oe-collect", "--missing", stdin=text, status=2)
    assert refused.stderr == "oe-collect: stdin: expected runs, got metric records\n"


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "stdin: expected results, runs or metric records, got nothing"),
        ("{}\n{\n", "stdin:1: expected a result object or a run object"),
        (LINES + "{\n", "stdin:4:"),
        ("{}\n[1]\n", "stdin:1: expected a result object or a run object"),
        ("[1]\n", "stdin: record 1: expected a metric record, an object"),
        ("a,b\n", "stdin:1: model_path: required column is missing; the header is 'a,b'"),
        ('{"oellm": 1}\n', "stdin:1: oellm: expected an object"),
        ('{"run_dir": "/no/such/run"}\n', "/no/such/run: no run directory: run.json is missing"),
    ],
)
def test_bad_lines_are_named(run: Run, stdin: str, message: str) -> None:
    assert f"oe-collect: {message}" in run("oe-collect", stdin=stdin, status=2).stderr


def test_bad_run_directory_stops_before_half_a_table(run: Run, run_dir: Path) -> None:
    done = run("oe-collect", run_dir, "/no/such/run", status=2)
    assert done.stdout == ""
    assert done.stderr == "oe-collect: /no/such/run: no such file or directory\n"


def test_the_rows_own_choice_of_metric_is_primary(run: Run) -> None:
    first = json.loads(LINES.splitlines()[0])
    first["oellm"]["row"]["primary_metric"] = "acc_norm"
    done = run("oe-collect", "--columns=metric,is_primary", stdin=json.dumps(first))
    assert done.stdout.splitlines()[1:] == ["acc,false", "acc_norm,true"]
