"""oe-missing: the rows of runs that have no valid result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.golden_run import CHOICE, CONTRACT, FAILED, PROSE, make_run
from support.processes import Run, rows_of


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.mark.slow
def test_missing_and_failed_rows_are_a_manifest(run: Run, run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "results" / f"{PROSE}.json").unlink()
    missing = run("oe-missing", run_dir).stdout
    assert [row["task_path"] for row in rows_of(missing)] == [FAILED, "oellm_prose"]
    done = run("oe-missing", "--failed", run_dir)
    assert [row["task_path"] for row in rows_of(done.stdout)] == [FAILED]
    assert done.stderr == "oe-missing: 1 of 3 rows failed\n"
    again = tmp_path / "again"
    record = run("oe-render", "--cluster=local", f"--run_dir={again}", stdin=done.stdout).stdout
    assert json.loads(record)["n_rows"] == 1
    # Without results and failures, all rows are missing and none has failed.
    for name in ("results", "failures"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    assert len(rows_of(run("oe-missing", run_dir).stdout)) == 3
    assert rows_of(run("oe-missing", "--failed", run_dir).stdout) == []


@pytest.mark.slow
def test_check_says_by_its_status_whether_something_is_missing(run: Run, run_dir: Path) -> None:
    table = run("oe-missing", run_dir).stdout
    assert run("oe-missing", "--check", run_dir, status=1).stdout == table
    path = run_dir / "jobs.csv"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in lines if FAILED not in line))
    done = run("oe-missing", "--check", run_dir)
    assert done.stdout == table.splitlines(keepends=True)[0]
    assert done.stderr == "oe-missing: 0 of 2 rows have no valid result\n"
    # The status says whether a row is missing, not whether one is printed.
    (run_dir / "results" / f"{PROSE}.json").unlink()
    assert rows_of(run("oe-missing", "--check", "--failed", run_dir, status=1).stdout) == []


def test_a_row_is_missing_only_if_no_run_has_it(run: Run, run_dir: Path, tmp_path: Path) -> None:
    second = make_run(tmp_path / "second")
    (run_dir / "results" / f"{CHOICE}.json").unlink()
    (second / "results" / f"{PROSE}.json").unlink()
    done = run("oe-missing", run_dir, second)
    assert [row["task_path"] for row in rows_of(done.stdout)] == [FAILED]


def test_a_message_names_no_option_that_the_command_lacks(run: Run, tmp_path: Path) -> None:
    for number in range(12):
        make_run(tmp_path / "runs" / str(number))
    said = run("oe-missing", tmp_path / "runs").stderr
    # Eleven copies of two results are older, and three of them are named.
    assert (
        "oe-missing: and 19 more results with a newer one (oe-collect --all prints them)\n" in said
    )


def test_records_say_nothing_of_missing_rows(run: Run) -> None:
    refused = run("oe-missing", stdin=(CONTRACT / "metrics.csv").read_text(), status=2)
    assert refused.stderr == "oe-missing: stdin: expected runs, got metric records\n"
    refused = run("oe-missing", stdin=(CONTRACT / "results.jsonl").read_text(), status=2)
    assert refused.stderr.splitlines()[-1] == (
        "oe-missing: expected a run directory: its manifest tells what is missing"
    )
