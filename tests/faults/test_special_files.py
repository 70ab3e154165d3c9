"""Pipes, devices, directories and huge files below a run directory: nobody waits, others go on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.golden_run import CHOICE, PROSE, make_run
from support.processes import BIN, clean_environment, rows_of, run_in_time

FAILED = "203958e037c21b54"


def huge(path: Path) -> None:
    path.touch()
    # It takes no room on the disk.
    os.truncate(path, 3 * 10**9)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "directory": Path.mkdir,
    "huge": huge,
    "garbage": lambda path: path.write_bytes(b'\xff\xfe{"a":[1,2'),
    "null": lambda path: path.write_bytes(b"null"),
}
PLACES = (
    *("run.json", "jobs.csv", "contents.json", "submit.lock", "binds"),
    *(f"results/{CHOICE}.json", f"failures/{FAILED}.json", f"samples/{CHOICE}.jsonl"),
    *("progress/0.json", "stops/0", "slurm_logs/local_0.log"),
    *("results", "failures", "progress", "samples", "slurm_logs"),
)

# Each of these has a reader of its own; others are read by one of the same functions.
_READ = (
    *("run.json", "jobs.csv", "contents.json", f"results/{CHOICE}.json"),
    *(f"failures/{FAILED}.json", "progress/0.json"),
)
_DIRECTORIES = tuple(place for place in PLACES if "/" not in place and "." not in place)
PAIRS = (
    *((place, "pipe") for place in PLACES),
    *((place, kind) for place in _READ for kind in sorted(KINDS) if kind != "pipe"),
    *((place, "garbage") for place in _DIRECTORIES if place != "binds"),
)


class Shared:
    """Two runs below one output directory, of which one is damaged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = directory / "out"
        self.good = make_run(self.output / "ada" / "good")
        self.bad = make_run(self.output / "eve" / "bad")
        (directory / "home").mkdir()
        names = {"USER": "ada", "LOGNAME": "ada", "OELLM_EVAL_OUTPUT_DIR": str(self.output)}
        self.environ = clean_environment(directory / "home", names | {"OELLM_CLUSTER": "local"})
        self.manifest = directory / "m.csv"
        header, *rows = csv.reader((self.good / "jobs.csv").open())
        lines = [",".join(row[:-1]) for row in (header, *rows)]
        self.manifest.write_text("\n".join(lines) + "\n")

    def plant(self, place: str, kind: str) -> Path:
        path = self.bad / place
        path.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        KINDS[kind](path)
        return path

    def call(self, *command: object) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return run_in_time(BIN / str(program), *arguments, env=self.environ, cwd=self.directory)

    def records(self, *paths: Path) -> list[dict[str, Any]]:
        done = self.call("oe-collect", "--all", "--format=jsonl", *paths)
        return list(map(json.loads, done.stdout.splitlines()))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    yield Shared(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_fifo():
            path.unlink()


def check_others(shared: Shared) -> None:
    """Check that all commands go on with what is not damaged."""
    for paths in ((shared.output,), (shared.bad, shared.good), (shared.good, shared.bad)):
        of_good = [one for one in shared.records(*paths) if one["run_dir"] == str(shared.good)]
        assert {one["eval_id"] for one in of_good} == {CHOICE, PROSE}
    missing = shared.call("oe-missing", f"--in={shared.output}", shared.manifest)
    assert [row["eval_id"] for row in rows_of(missing.stdout)] == [FAILED]
    # The model of the recorded run is not here.
    rendered = shared.call("oe-render", "--dry_run", shared.manifest)
    assert rendered.returncode == 0, rendered.stderr
    listed = shared.call("oe-status", "--format=jsonl")
    assert listed.returncode == 0
    assert "good" in listed.stdout


def check_damaged(shared: Shared, place: str) -> None:
    """Check that the commands say what they refuse, and go on with the rest of the run."""
    status = shared.call("oe-status", "--format=csv", shared.bad)
    is_whole = place not in ("run.json", "jobs.csv", "results")
    if is_whole:
        states = {row["eval_id"]: row["state"] for row in rows_of(status.stdout)}
        assert states[PROSE] == "done"
        assert (states[CHOICE] == "done") == (place != f"results/{CHOICE}.json")
        assert {one["eval_id"] for one in shared.records(shared.bad)} >= {PROSE}
    else:
        assert status.returncode == 2
        assert str(shared.bad / place) in status.stderr
    log = shared.call("oe-status", "--log=0", shared.bad)
    assert log.returncode in (0, 2)
    report = shared.call("oe-report", f"--output={shared.directory}/x.html", shared.bad)
    assert report.returncode in (0, 1) if is_whole else 2
    assert shared.call("oe-submit", "--dry_run", shared.bad).returncode in (0, 2)
    assert shared.call("oe-compare", shared.good, shared.bad).returncode in (0, 1, 2)


def test_a_pipe_in_the_place_of_a_result_stops_nobody(shared: Shared) -> None:
    place = f"results/{CHOICE}.json"
    shared.plant(place, "pipe")
    check_others(shared)
    check_damaged(shared, place)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "kind"), PAIRS)
def test_what_is_no_file_of_a_run_stops_nobody(shared: Shared, place: str, kind: str) -> None:
    shared.plant(place, kind)
    check_others(shared)
    check_damaged(shared, place)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["x.json", "results/x.json", "deep/er/x.json"])
def test_a_pipe_below_a_directory_of_results_stops_nobody(shared: Shared, place: str) -> None:
    path = shared.output / "ada" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    done = shared.call("oe-collect", shared.output)
    assert done.returncode == 1
    assert f"{path}: left out, it is a named pipe, not a regular file\n" in done.stderr
    check_others(shared)


def test_what_the_shell_opened_may_be_a_pipe(shared: Shared) -> None:
    collect = "cat good/results/*8e9c37ffe.json | oe-collect /dev/fd/0"
    done = subprocess.run(
        ["bash", "-c", collect],
        env=shared.environ,
        cwd=shared.good.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "oellm_choice" in done.stdout, done.stderr


def test_a_link_to_a_run_is_followed(shared: Shared) -> None:
    link = shared.directory / "link"
    link.symlink_to(shared.good)
    assert {one["eval_id"] for one in shared.records(link)} == {CHOICE, PROSE}
    result = shared.directory / "result.json"
    result.symlink_to(shared.good / "results" / f"{CHOICE}.json")
    assert {one["eval_id"] for one in shared.records(result)} == {CHOICE}
