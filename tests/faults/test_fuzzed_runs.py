"""Damaged files below a run directory: refused with their place, or read as a strict reader does.

`make fuzz` tries thousands of them, and prints how they ended; `make test` tries a few.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from oellm.errors import ExitStatus
from support.fuzzed_place import (
    Place,
    fuzz,
    lines,
    members,
    read_json,
    replaced,
    run_record,
    strict,
    strict_lines,
)
from support.fuzzing import damaged_bytes, damaged_csv, damaged_json
from support.golden_run import CHOICE, CONTRACT, PROSE

FAILED = "203958e037c21b54"

pytestmark = pytest.mark.slow

STATUS = ("oe-status", "--format=jsonl")

SMALL = ("submit.lock", "stops/0", "contents.json", "binds", "slurm_logs/local_0.log")


def heartbeat() -> dict[str, Any]:
    attempt = {"job": "4711_0", "gpus": 1, "started": "2026-11-22T18:53:31.000+00:00"}
    attempt |= {"updated": "2026-11-22T18:54:31.000+00:00", "scoring_s": 12.5}
    row = {"eval_id": FAILED, "phase": "scoring", "started": attempt["updated"]}
    row |= {"requests_done": 3, "requests_total": 12, "requests_per_s": 1.5}
    return {
        "shard": 0,
        "host": "node1",
        "pid": 4711,
        "process_start": 12,
        **attempt,
        "total": 3,
        "skipped": 0,
        "done": 2,
        "failed": 0,
        "loading": "",
        "ended": "",
        "rows": [row],
        "attempts": [attempt, attempt],
        "unusable": "",
    }


def result() -> Any:
    content = read_json(CONTRACT / "run" / "results" / f"{CHOICE}.json")
    return {"results": content["results"], "oellm": content["oellm"]}


def check_rows(place: Place, kind: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of oe-status; the file may not change what is known of other rows."""
    done = place.run(kind, path, *STATUS, place.bad)
    rows = lines(done)
    assert [row["eval_id"] for row in rows] == [CHOICE, FAILED, PROSE]
    return rows


@fuzz(damaged_json(run_record()))
def test_run(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "run.json"
    with replaced(path, content):
        command: tuple[str, ...] = STATUS
        if choice < 5:
            command = (("oe-submit", "--dry_run"), ("oe-collect",), ("oe-missing",))[choice % 3]
        done = place.run("run.json", path, *command, place.bad)
        if done.status != ExitStatus.USAGE:
            record = strict(content)
            assert type(record["n_rows"]) is int
            assert all(isinstance(record[key], list) for key in ("arrays", "shards", "jobs"))
        # A damaged run takes nothing from the others.
        if choice == 0:
            beside = place.run("run.json", path, "oe-collect", "--format=jsonl", place.output)
            assert {CHOICE, PROSE} <= {record["eval_id"] for record in lines(beside)}


@fuzz(damaged_json(result()))
def test_result(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "results" / f"{CHOICE}.json"
    with replaced(path, content):
        check_result(place, path, content, choice)


def check_result(place: Place, path: Path, content: bytes, choice: int) -> None:
    if choice == 0:
        states = {row["eval_id"]: row["state"] for row in check_rows(place, "result", path)}
        assert states[PROSE] == "done"
        return
    if choice == 1:
        place.run("result", path, "oe-report", f"--output={place.directory}/page.html", place.bad)
        return
    source = path if choice < 4 else place.bad
    done = place.run("result", path, "oe-collect", "--format=jsonl", source)
    records = lines(done)
    if choice >= 4:
        assert {record["metric"] for record in records if record["eval_id"] == PROSE}
        records = [record for record in records if record["eval_id"] == CHOICE]
    if not records or "oellm" not in members(content):
        return
    ours = members(content)["oellm"]
    for record in records:
        same = [
            metric
            for metric in ours["metrics"]
            if (metric["task"], metric["metric"]) == (record["task"], record["metric"])
        ]
        assert any(math.isclose(metric["value"], record["value"], rel_tol=1e-15) for metric in same)


@fuzz(damaged_json(read_json(CONTRACT / "run" / "failures" / f"{FAILED}.json")))
def test_failure(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "failures" / f"{FAILED}.json"
    with replaced(path, content):
        check_failure(place, path, content, choice)


def check_failure(place: Place, path: Path, content: bytes, choice: int) -> None:
    if choice == 0:
        done = place.run("failure", path, "oe-missing", place.bad)
        assert len(done.out.splitlines()) == 2
        return
    rows = check_rows(place, "failure", path)
    assert [row["state"] for row in rows][::2] == ["done", "done"]
    reason, failure = rows[1]["reason"] or "", members(content).get("oellm", {})
    if rows[1]["state"] == "failed":
        assert str(failure["failure"].get("message", "")).split("\n")[0][:40].strip() in reason


@fuzz(damaged_json(heartbeat()))
def test_heartbeat(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "progress" / "0.json"
    with replaced(path, content):
        if choice == 0:
            done = place.run("heartbeat", path, "oe-status", "--format=json", place.bad)
            json.loads(done.out)
        elif choice == 1:
            place.run("heartbeat", path, "oe-status", "--format=table", place.bad)
        else:
            rows = check_rows(place, "heartbeat", path)
            assert [row["state"] for row in rows][::2] == ["done", "done"]


@fuzz(damaged_csv(list(csv.reader((CONTRACT / "run" / "jobs.csv").open()))))
def test_jobs(place: Place, content: bytes, choice: int) -> None:
    path = place.bad / "jobs.csv"
    with replaced(path, content):
        commands = (STATUS, ("oe-collect",), ("oe-missing",), ("oe-submit", "--dry_run"))
        command: tuple[str, ...] = commands[choice % 4]
        done = place.run("jobs.csv", path, *command, place.bad)
        if done.status != ExitStatus.USAGE and command is STATUS:
            rows = strict_lines(content)
            assert [row["eval_id"] for row in lines(done)] == [row["eval_id"] for row in rows]


@fuzz(st.one_of(damaged_bytes(b"4711 2\n"), damaged_json({"host": "a", "pid": 1, "token": "x"})))
def test_small_files(place: Place, content: bytes, choice: int) -> None:
    with contextlib.ExitStack() as stack:
        for name in SMALL:
            stack.enter_context(replaced(place.bad / name, content))
        path = place.bad
        if choice < 5:
            place.run("small files", path, "oe-status", "--log=0", place.bad)
        else:
            check_rows(place, "small files", path)


def test_nothing_is_left_behind(place: Place) -> None:
    shutil.rmtree(place.directory / "cache", ignore_errors=True)
    assert not list(place.bad.rglob("*.tmp"))
