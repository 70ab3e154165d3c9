"""oe-compare: runs, files of records, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.golden_run import CHOICE, CONTRACT, PROSE, make_run
from support.processes import Run, rows_of

METRICS = str(CONTRACT / "metrics.csv")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.mark.slow
def test_two_runs_are_compared(run: Run, run_dir: Path, tmp_path: Path) -> None:
    second = make_run(tmp_path / "second")
    path = second / "results" / f"{PROSE}.json"
    path.write_text(path.read_text().replace('"value": 3.98', '"value": 2.98'))
    (second / "results" / f"{CHOICE}.json").unlink()
    done = run("oe-compare", run_dir, second)
    (found,) = rows_of(done.stdout)
    assert (found["task"], found["difference"], found["verdict"]) == (
        "oellm_prose",
        "-1.0",
        "unknown",
    )
    assert "oe-compare: not compared, 1 only in A: " in done.stderr
    done = run("oe-compare", "--metric=acc_norm", "--format=table", run_dir, run_dir)
    assert [line.split()[-1:] for line in done.stdout.splitlines()[2:4]] == [["same"], []]
    chosen = ("--filter_a=step=1000", "--filter_b=step=2000")
    refused = run("oe-compare", *chosen, run_dir, run_dir, status=2)
    assert "B" in refused.stderr


@pytest.mark.slow
def test_files_of_records_are_compared_like_runs(run: Run, run_dir: Path, tmp_path: Path) -> None:
    from_runs = run("oe-compare", run_dir, run_dir).stdout
    saved = tmp_path / "saved.csv"
    saved.write_text(run("oe-collect", run_dir).stdout)
    assert run("oe-compare", saved, run_dir).stdout == from_runs
    assert run("oe-compare", "-", saved, stdin=saved.read_text()).stdout == from_runs
    assert len(rows_of(from_runs)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-"], "A and B: only one of them can be stdin"),
        (["RUN_DIR"], "B is missing"),
        (["--format=xml", "A", "B"], "--format: expected one of csv, jsonl, "),
        (["--sort=task", "A", "B"], "unknown option --sort"),
        (["--filter_b=tusk=1", METRICS, METRICS], "--filter_b: unknown column 'tusk', did you"),
        (["/no/such/run", "B"], "/no/such/run: no such file or directory"),
    ],
)
def test_bad_arguments_are_refused(run: Run, arguments: list[str], message: str) -> None:
    refused = run("oe-compare", *arguments, status=2)
    assert refused.stderr.startswith(f"oe-compare: {message}")
