"""Names and texts of others never reach a terminal as control characters."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from oellm.core import display
from support.golden_run import make_run
from support.model_directories import write_model
from support.processes import Run, clean_environment
from support.terminal import on_terminal

# Clears the screen, moves the cursor, sets the title; a line end; text from right to left.
EVIL = "m\x1b[2J\x9b1A\x07\r\nok\u202egnp\u2066\u200e"
DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
RECORD = {"model_path": EVIL, "task": "t", "metric": "acc", "value": 0.5, "is_primary": True}


def shown_to_people(home: Path, *command: str | Path) -> str:
    """Return what a command prints if stdout and stderr are a wide terminal."""
    return on_terminal(*command, env=clean_environment(home), width=200, is_stderr=True).stdout


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps([RECORD]))
    return path


@pytest.mark.parametrize("layout", ["table", "csv", "jsonl", "json", "markdown", "latex", "html"])
def test_no_format_writes_them_to_a_terminal(tmp_path: Path, saved: Path, layout: str) -> None:
    for command in ("oe-collect", "oe-pivot"):
        shown = shown_to_people(tmp_path, command, f"--format={layout}", saved)
        assert "\ufffd" in shown or "\\u" in shown
        assert not DANGEROUS.search(shown)


def test_csv_for_programs_stays_exact(run: Run, saved: Path) -> None:
    printed = run("oe-collect", "--columns=model_path", saved).stdout
    assert printed == f'model_path\n"{EVIL}"\n'


def test_no_name_breaks_the_line_of_a_table(run: Run, saved: Path) -> None:
    for layout in ("table", "markdown", "latex"):
        printed = run("oe-collect", f"--format={layout}", "--columns=model_path,task", saved).stdout
        assert len([line for line in printed.splitlines() if "ok" in line and "t" in line]) == 1
        assert not DANGEROUS.search(printed)


def test_no_message_has_them(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x\x1b[2J\nfine: \u202e.json"
    path.write_text("{")
    done = run("oe-collect", path, status=1)
    assert not DANGEROUS.search(done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_a_log_is_shown_without_them(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    log = tmp_path / "log"
    log.write_text(f"begin {EVIL} end\n")
    failure = run_dir / "failures" / "203958e037c21b54.json"
    record = json.loads(failure.read_text())
    record["oellm"]["failure"]["log"] = str(log)
    failure.write_text(json.dumps(record))
    shown = shown_to_people(tmp_path, "oe-status", "--log", "203958e037c21b54", run_dir)
    assert "begin m" in shown
    assert not DANGEROUS.search(shown)


def test_what_people_write_stays() -> None:
    text = "é 模 שלום مرحبا 👩‍🔬 a\tb\nc"
    assert display.printable(text) == text
    assert display.one_line("a\nb") == "a b"


def test_no_manifest_on_a_terminal_has_them(tmp_path: Path) -> None:
    model = write_model(tmp_path / EVIL.replace("\n", "").replace("\r", ""))
    rows = tmp_path / "evals.csv"
    with open(rows, "w", newline="") as stream:
        stream.write("model_path,task_path,n_shot\n")
        csv.writer(stream, lineterminator="\n").writerow([model, "no_such_task", "0"])
    for command in (
        ("oe-manifest", f"--models={model}", "--tasks=x", "--unchecked_tasks"),
        ("oe-manifest", f"--rows={rows}"),
        ("oe-missing", "--cluster=local", "--format=csv", f"--in={tmp_path / 'none'}", rows),
    ):
        shown = shown_to_people(tmp_path, *command)
        assert "\ufffd" in shown
        assert not DANGEROUS.search(shown)
