"""The heartbeat of a worker: what is in it, how often it is written, that it never harms."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oellm.core import schema
from oellm.runs import heartbeat
from oellm.runs.heartbeat import Heartbeat, RowAtWork, Work
from support.faulty_model import FaultyModel
from support.processes import BIN, DEMO_TASKS, Run, clean_environment

IDLE = Work(3, 1, 0, 0, [], "acme/tiny", 0.0)
ROW = RowAtWork("0123456789abcdef", "scoring", "2026-01-01T00:00:00+00:00", 4, 8, 2.0)


def test_it_says_what_the_schema_says_and_keeps_earlier_attempts(tmp_path: Path) -> None:
    Heartbeat(tmp_path, 4, 2).beat(IDLE._replace(scoring_s=5.0))
    Heartbeat(tmp_path, 4, 2).beat(IDLE._replace(rows=[ROW]))
    (tmp_path / "progress" / "5.json").write_text('{"shard": 5')
    (beat,) = heartbeat.read_all(tmp_path).values()
    assert list(beat) == [*schema.table("heartbeat")]
    assert beat["rows"] == [ROW._asdict()]
    assert [attempt["scoring_s"] for attempt in beat["attempts"]] == [5.0, 0.0]
    assert heartbeat.is_alive_here(beat)
    assert not heartbeat.is_alive_here(beat | {"process_start": 1})
    assert not heartbeat.is_alive_here(beat | {"host": "elsewhere"})


def test_it_is_written_when_something_changes_but_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now))
    beating = Heartbeat(tmp_path, 0, 1)
    path = tmp_path / "progress" / "0.json"
    beating.beat(IDLE)
    first = path.stat().st_ino
    now += 0.25
    beating.beat(IDLE._replace(scoring_s=1.0))
    beating.beat(IDLE._replace(rows=[ROW]))
    assert path.stat().st_ino == first
    # A second after the last one it is due, even if nothing else happens.
    assert beating.patience() == 0.75
    now += beating.patience()
    beating.beat(IDLE._replace(rows=[ROW]))
    assert json.loads(path.read_text())["rows"] == [ROW._asdict()]
    assert beating.patience() == 10.0
    beating.beat(IDLE._replace(ended="finished"))
    assert json.loads(path.read_text())["ended"] == "finished"


def test_a_place_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "progress").write_text("a file")
    Heartbeat(tmp_path, 0, 1).beat(IDLE)
    Heartbeat(tmp_path / "gone", 0, 1).beat(IDLE)
    assert heartbeat.read_all(tmp_path / "gone") == {}


@pytest.mark.slow
def test_a_worker_tells_how_far_it_is(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    model = FaultyModel(tiny_model, tmp_path / "slow")
    # Slow enough that the model's process tells of each batch.
    model.set_pace(1.5)
    rows = run(
        *("oe-manifest", "--models", model.directory, "--tasks", "oellm_choice", "--n_shot=0,1"),
        *("--include_path", DEMO_TASKS, "--trust_remote_code=true", "--batch_size=4"),
    ).stdout
    run("oe-render", "--cluster=local", "--run_dir=run", stdin=rows)
    worker = subprocess.Popen(
        [BIN / "oe-run-task", f"--run_dir={tmp_path}/run", "--shard=0"],
        env=clean_environment(tmp_path / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen: list[dict[str, Any]] = []
    while worker.poll() is None:
        seen += heartbeat.read_all(tmp_path / "run").values()
        rows_seen = [row for beat in seen for row in beat["rows"]]
        is_answered = any(row["requests_done"] for row in rows_seen)
        if is_answered and any(row["phase"] == "waiting" for row in rows_seen):
            model.set_pace(0)
        elif len(model.batches()) > 3:
            # The row goes on until a heartbeat has told of it.
            model.set_pace(3600)
        time.sleep(0.1)
    last = heartbeat.read_all(tmp_path / "run")[0]
    assert (last["total"], last["done"], last["ended"]) == (2, 2, "finished")
    assert 0.5 < last["scoring_s"] == last["attempts"][0]["scoring_s"]
    assert any(beat["loading"] for beat in seen)
    scored = [row for beat in seen for row in beat["rows"] if row["requests_done"]]
    assert 0 < scored[0]["requests_done"] < scored[0]["requests_total"]
    assert {row["phase"] for beat in seen for row in beat["rows"]} >= {"waiting", "scoring"}
    assert os.listdir(tmp_path / "run" / "progress") == ["0.json"]
