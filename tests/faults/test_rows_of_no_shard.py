"""A manifest and a run.json that do not fit together are bad input, with their place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from support.processes import Run
from support.submitting import FakeSlurm

COMMANDS = (
    ("oe-status",),
    ("oe-status", "--log=0123456789abcdef"),
    ("oe-submit", "--dry_run"),
    ("oe-submit",),
    ("oe-submit", "--executor=local"),
)


@pytest.mark.parametrize("shard", ["7", "", "x", "-1", "99999999999999999999"])
def test_a_row_whose_shard_the_run_does_not_have(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], shard: str
) -> None:
    path = Path(rendered["run_dir"]) / "jobs.csv"
    lines = path.read_text().splitlines()
    cells = lines[3].split(",")
    path.write_text("\n".join([*lines[:3], ",".join([*cells[:-1], shard]), *lines[4:], ""]))
    for command in COMMANDS:
        options = [word.replace("0123456789abcdef", cells[-2]) for word in command]
        done = run(*options, path.parent, env=slurm.env, status=2)
        assert done.stderr.startswith(f"{command[0]}: {path}:4: shard: expected ")
    assert slurm.submitted() == []


@pytest.mark.parametrize(("column", "cell"), [("limit", "7"), ("model_path", "acme/other")])
def test_a_row_that_was_changed_after_it_got_its_eval_id_is_not_evaluated(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], column: str, cell: str
) -> None:
    path = Path(rendered["run_dir"]) / "jobs.csv"
    rows = list(csv.DictReader(path.open()))
    rows[1][column] = cell
    with path.open("w") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys([*rows[0], column])), restval="")
        writer.writeheader()
        writer.writerows(rows)
    for command in COMMANDS[2:]:
        done = run(*command, path.parent, env=slurm.env, status=2)
        assert done.stderr.startswith(f"{command[0]}: {path}:3: eval_id: expected ")
        assert "the row was changed after it got its eval_id" in done.stderr
    assert slurm.submitted() == []
    worker = ("oe-run-task", f"--run_dir={path.parent}", f"--shard={rows[1]['shard']}")
    assert f"{path}:3: eval_id: expected " in run(*worker, status=2).stderr


@pytest.mark.parametrize("changed", [{"arrays": []}, {"arrays": [], "shards": []}])
def test_a_run_without_arrays_has_no_place_for_its_rows(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], changed: dict[str, Any]
) -> None:
    path = Path(rendered["run_dir"]) / "run.json"
    path.write_text(json.dumps(rendered | changed))
    for command in COMMANDS:
        done = run(*command, path.parent, env=slurm.env, status=2)
        assert "expected" in done.stderr


def test_a_failure_whose_time_has_no_zone_counts(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run_dir = Path(rendered["run_dir"])
    run("oe-submit", run_dir, env=slurm.env)
    eval_id = (run_dir / "jobs.csv").read_text().splitlines()[1].split(",")[-2]
    failure = {"class": "ValueError", "message": "no", "attempts": 1, "log": ""}
    content = {"oellm": {"failure": failure, "timing": {"finished": "2099-01-01T00:00:00"}}}
    (run_dir / "failures").mkdir(exist_ok=True)
    (run_dir / "failures" / f"{eval_id}.json").write_text(json.dumps(content))
    done = run("oe-status", run_dir, env=slurm.env, status=75)
    assert done.stdout.count(",failed,ValueError: no,") == 1
