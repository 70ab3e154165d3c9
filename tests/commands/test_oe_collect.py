"""oe-collect: formats, columns, damaged results, saved records, primary metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.golden_files import GOLDEN, assert_golden
from support.golden_run import make_run
from support.processes import Run, rows_of

LINES = (GOLDEN / "contract" / "results.jsonl").read_text()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.mark.parametrize("layout", ["table", "markdown", "jsonl"])
def test_each_format_is_golden(run: Run, run_dir: Path, layout: str) -> None:
    done = run("oe-collect", f"--format={layout}", run_dir)
    assert_golden(f"collected.{layout}", done.stdout.replace(str(run_dir), "/evals/ada/run"))
    lacking = "oe-collect: names of models lack what all models share: /models/\n"
    told = "oe-collect: 1 of 3 rows have no valid result\n"
    assert done.stderr == ("" if layout == "jsonl" else lacking) + told


def test_formats_agree(run: Run, run_dir: Path) -> None:
    table = rows_of(run("oe-collect", run_dir).stdout)
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
    assert refused.stderr == "oe-collect: --columns: unknown column 'valeu', did you mean value?\n"
    layout = run("oe-collect", "--format=xml", run_dir, status=2)
    formats = "csv, jsonl, json, table, markdown, latex, html, parquet, dashboard"
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
    missing = run("oe-missing", run_dir).stdout.splitlines()
    assert [line.split(",")[1] for line in missing[1:]] == ["oellm_choice", "no_such_task"]


@pytest.mark.slow
def test_what_was_printed_can_be_read_again(run: Run, run_dir: Path) -> None:
    for layout in ("csv", "jsonl", "json"):
        text = run("oe-collect", f"--format={layout}", run_dir).stdout
        assert run("oe-collect", f"--format={layout}", stdin=text).stdout == text


@pytest.mark.slow
def test_files_of_records_are_read_and_chosen_from(run: Run, run_dir: Path, tmp_path: Path) -> None:
    for layout in ("csv", "jsonl", "json"):
        saved = tmp_path / f"saved.{layout}"
        saved.write_text(run("oe-collect", f"--format={layout}", run_dir).stdout)
        chosen = run("oe-collect", "--columns=task,metric", "--filter=metric=acc*", saved).stdout
        assert chosen == "task,metric\noellm_choice,acc\noellm_choice,acc_norm\n"
    both = run("oe-collect", "--columns=run_dir", "--sort=-value", saved, run_dir)
    assert both.stdout.splitlines()[1:] == [str(run_dir)] * 6
    # JSON of something else is no record, also if it is an array.
    (tmp_path / "other.json").write_text('[["def f():"]]')
    path = tmp_path / "other.json"
    other = run("oe-collect", path, status=2)
    assert other.stderr == f"oe-collect: {path}: expected a result, got 1 other JSON file\n"


@pytest.mark.parametrize(
    ("option", "successor"),
    [
        ("--pivot", "oe-pivot"),
        ("--rows=task", "oe-pivot --rows"),
        ("--cols=step", "oe-pivot --cols"),
        ("--stderr", "oe-pivot --stderr"),
        ("--average", "oe-pivot --average"),
        ("--compare", "oe-compare"),
        ("--filter_a=step=1", "oe-compare --filter_a"),
        ("--filter-b=step=1", "oe-compare --filter_b"),
        ("--missing", "oe-missing"),
        ("--failed", "oe-missing --failed"),
        ("--check", "oe-missing --check"),
    ],
)
def test_an_option_that_moved_names_the_command_that_has_it_now(
    run: Run, option: str, successor: str
) -> None:
    name = option.partition("=")[0].replace("filter-b", "filter_b")
    refused = run("oe-collect", option, "RUN_DIR", status=2)
    assert refused.stderr == f"oe-collect: {name} is no longer an option: use {successor}\n"
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "stdin: expected results, runs or metric records, got nothing"),
        ("{}\n{\n", "stdin:1: expected a result object or a run object"),
        (LINES + "{\n", "stdin:4:"),
        ("{}\n[1]\n", "stdin:1: expected a result object or a run object"),
        ("[1]\n", "stdin: record 1: expected a metric record, an object"),
        ("a" * 200_000, "stdin:1: model_path: required column is missing; the header is 'aaa"),
        ("a,b\n", "stdin:1: model_path: required column is missing; the header is 'a,b'"),
        ('{"oellm": 1}\n', "stdin:1: oellm: expected an object"),
        ('{"run_dir": "/no/such/run"}\n', "/no/such/run: no such directory"),
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
