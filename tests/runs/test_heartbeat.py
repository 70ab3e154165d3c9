"""Heartbeats of a worker: their content, how often they are written, and that they do no harm."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oellm.core import schema
from oellm.runs import heartbeat
from oellm.runs.heartbeat import Heartbeat, HeartbeatWriter, RowAtWork, RowPhase, WorkerState
from support.damage import damaged
from support.faulty_model import FaultyModel
from support.processes import BIN, DEMO_TASKS, Run, clean_environment

IDLE = WorkerState(
    total=3, skipped=1, done=0, failed=0, rows=(), loading="acme/tiny", scoring_s=0.0
)
ROW = RowAtWork(
    eval_id="0123456789abcdef",
    phase=RowPhase.SCORING,
    started="2026-01-01T00:00:00+00:00",
    requests_done=4,
    requests_total=8,
    requests_per_s=2.0,
)
SCORING = replace(IDLE, rows=(ROW,))


def in_file(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_a_heartbeat_follows_the_schema_and_keeps_earlier_attempts(tmp_path: Path) -> None:
    HeartbeatWriter(tmp_path, 4, 2).beat(replace(IDLE, scoring_s=5.0))
    HeartbeatWriter(tmp_path, 4, 2).beat(SCORING)
    content = in_file(tmp_path / "progress" / "4.json")
    assert list(content) == [*schema.table("heartbeat")]
    assert content["rows"] == [asdict(ROW)]
    (tmp_path / "progress" / "5.json").write_text('{"shard": 5')
    (tmp_path / "progress" / "6.json").write_text("{}")
    (tmp_path / "progress" / "٣.json").write_text(json.dumps(content))
    (beat,) = heartbeat.read_heartbeats(tmp_path).values()
    assert beat.to_json() == content
    assert beat.state == SCORING
    assert [attempt.scoring_s for attempt in beat.attempts] == [5.0, 0.0]
    assert beat.is_alive_here()
    assert not replace(beat, process_start=1).is_alive_here()
    assert not replace(beat, host="elsewhere").is_alive_here()


def test_a_heartbeat_is_written_on_changes_but_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now))
    beating = HeartbeatWriter(tmp_path, 0, 1)
    path = tmp_path / "progress" / "0.json"
    beating.beat(IDLE)
    first = path.stat().st_ino
    now += 0.25
    beating.beat(replace(IDLE, scoring_s=1.0))
    beating.beat(SCORING)
    assert path.stat().st_ino == first
    # It is due a second after the last one, even if nothing else happens.
    assert beating.seconds_until_due() == 0.75
    now += beating.seconds_until_due()
    beating.beat(SCORING)
    assert in_file(path)["rows"] == [asdict(ROW)]
    assert beating.seconds_until_due() == 10.0
    beating.beat(replace(IDLE, ended="finished"))
    assert in_file(path)["ended"] == "finished"


def test_a_directory_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "progress").write_text("a file")
    HeartbeatWriter(tmp_path, 0, 1).beat(IDLE)
    HeartbeatWriter(tmp_path / "gone", 0, 1).beat(IDLE)
    assert heartbeat.read_heartbeats(tmp_path / "gone") == {}


@pytest.mark.slow
def test_a_worker_tells_how_far_it_is(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    model = FaultyModel(tiny_model, tmp_path / "slow")
    # Slow enough that the model's process reports each batch.
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
    seen: list[Heartbeat] = []
    while worker.poll() is None:
        seen += heartbeat.read_heartbeats(tmp_path / "run").values()
        at_work = [row for beat in seen for row in beat.state.rows]
        is_answered = any(row.requests_done for row in at_work)
        if is_answered and any(row.phase is RowPhase.WAITING for row in at_work):
            model.set_pace(0)
        elif len(model.batches()) > 3:
            # Hold the row until a heartbeat has reported it.
            model.set_pace(3600)
        time.sleep(0.1)
    last = heartbeat.read_heartbeats(tmp_path / "run")[0]
    assert (last.state.total, last.state.done, last.state.ended) == (2, 2, "finished")
    assert 0.5 < last.state.scoring_s == last.attempts[0].scoring_s
    assert any(beat.state.loading for beat in seen)
    scored = next(row for beat in seen for row in beat.state.rows if row.requests_done)
    assert 0 < scored.requests_done < scored.requests_total
    phases = {row.phase for beat in seen for row in beat.state.rows}
    assert phases >= {RowPhase.WAITING, RowPhase.SCORING}
    assert os.listdir(tmp_path / "run" / "progress") == ["0.json"]


def test_a_heartbeat_without_a_time_counts_as_none_and_without_a_zone_as_utc(
    tmp_path: Path,
) -> None:
    HeartbeatWriter(tmp_path, shard=0, gpus=1).beat(IDLE)
    path = tmp_path / "progress" / "0.json"
    content = in_file(path)
    for moment in ("yesterday", None, 5):
        content["attempts"][0]["updated"] = moment
        path.write_text(json.dumps(content))
        assert heartbeat.read_heartbeats(tmp_path) == {}
    content["attempts"][0]["updated"] = "2024-01-15T14:30:45"
    path.write_text(json.dumps(content))
    expected = datetime.datetime(2024, 1, 15, 14, 30, 45, tzinfo=datetime.timezone.utc)
    assert heartbeat.read_heartbeats(tmp_path)[0].attempt.update_time == expected


def test_a_damaged_heartbeat_costs_nothing_but_itself(tmp_path: Path) -> None:
    HeartbeatWriter(tmp_path, 0, 1).beat(SCORING)
    path = tmp_path / "progress" / "0.json"
    counts = {True: 0, False: 0}
    for content in damaged(in_file(path)):
        path.write_text(json.dumps(content))
        for beat in heartbeat.read_heartbeats(tmp_path).values():
            assert beat.to_json()
            assert beat.state.rows == () or beat.state.rows[0].phase is RowPhase.SCORING
            assert beat.attempt.seconds >= 0
            beat.is_alive_here()
        counts[bool(heartbeat.read_heartbeats(tmp_path))] += 1
        HeartbeatWriter(tmp_path, 0, 1).beat(IDLE)
        assert heartbeat.read_heartbeats(tmp_path)[0].state == IDLE
    assert counts[True] > 50
    assert counts[False] > 200


def test_a_heartbeat_of_an_earlier_version_has_no_reason_why_the_node_is_unusable(
    tmp_path: Path,
) -> None:
    HeartbeatWriter(tmp_path, 0, 1).beat(replace(IDLE, unusable="no GPU"))
    path = tmp_path / "progress" / "0.json"
    content = in_file(path)
    assert content.pop("unusable") == "no GPU"
    path.write_text(json.dumps(content))
    assert heartbeat.read_heartbeats(tmp_path)[0].state == IDLE


def test_a_heartbeat_is_not_written_through_a_link_that_somebody_left(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    progress = tmp_path / "progress"
    progress.mkdir()
    for name in (".0.json.tmp", "0.json"):
        (progress / name).symlink_to(victim)
    HeartbeatWriter(tmp_path, 0, 1).beat(IDLE)
    assert victim.read_text() == "precious"
    assert not (progress / "0.json").is_symlink()
    assert heartbeat.read_heartbeats(tmp_path)[0].state == IDLE


def test_what_a_killed_worker_left_of_a_heartbeat_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    for name in (".0.json.7-aabbccdd.tmp", ".1.json.7-aabbccdd.tmp"):
        (tmp_path / "progress" / name).write_text("{")
    HeartbeatWriter(tmp_path, 0, 1).beat(IDLE)
    assert sorted(os.listdir(tmp_path / "progress")) == [".1.json.7-aabbccdd.tmp", "0.json"]
