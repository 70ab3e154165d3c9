"""The heartbeat of a worker: what it does now, in RUN_DIR/progress/SHARD.json for oe-status.

The process that directs the work writes it, which has time for that also while a model is loaded or
a long batch computed. A heartbeat that is not there, or is behind, costs no row anything.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core import json_codec, schema
from oellm.core.display import utc_now
from oellm.runs import provenance

PROGRESS = "progress"
# Seconds between two heartbeats where nothing begins or ends.
EVERY = 10.0
# And where much does.
_AT_LEAST = 1.0

# As in the file (schema.json, table `heartbeat`).
Beat = dict[str, Any]


class RowAtWork(NamedTuple):
    """A row that a worker has begun and not ended."""

    eval_id: str
    # preparing, waiting (for the model), scoring or finishing.
    phase: str
    started: str
    # Of the requests that the model answers at the moment.
    requests_done: int = 0
    requests_total: int = 0
    requests_per_s: float | None = None


class Work(NamedTuple):
    """What a worker does."""

    # Rows of the shard; of them, those that had a result before, and those that ended since.
    total: int
    skipped: int
    done: int
    failed: int
    rows: list[RowAtWork]
    # The model that is being loaded, if one is.
    loading: str
    # Seconds in which the model answered.
    scoring_s: float
    # How the worker ended, empty while it works.
    ended: str = ""


class Heartbeat:
    """Writes what the worker of a shard does; `gpus` is how many it has."""

    def __init__(self, run_dir: Path, shard: int, gpus: int) -> None:
        self._path = run_dir / PROGRESS / f"{shard}.json"
        before = _loaded(self._path) or {}
        self._attempts: list[dict[str, Any]] = before.get("attempts", [])
        began = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(
            seconds=provenance.start_seconds()
        )
        self._attempt = {
            "job": _job(os.environ),
            "gpus": gpus,
            "started": began.isoformat(timespec="milliseconds"),
        }
        self._facts = {
            "shard": shard,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": provenance.start_ticks(),
        }
        self._shown: object = None
        self._is_behind = False
        self._written = float("-inf")

    def beat(self, work: Work) -> None:
        """Write a heartbeat where one is due: something began or ended, or 10 s are over."""
        # Without what changes all the time.
        steps = [(row.eval_id, row.phase) for row in work.rows]
        shown = (work.done, work.failed, steps, work.loading, work.ended)
        silence = time.monotonic() - self._written
        self._is_behind = shown != self._shown
        if work.ended or silence >= self._interval():
            self._write(work)
            self._shown, self._is_behind, self._written = shown, False, time.monotonic()

    def patience(self) -> float:
        """Return the seconds after which `beat` wants to be called, whatever happens."""
        return max(0.0, self._written + self._interval() - time.monotonic())

    def _interval(self) -> float:
        return _AT_LEAST if self._is_behind else EVERY

    def _write(self, work: Work) -> None:
        updated = utc_now()
        attempt = {**self._attempt, "updated": updated, "scoring_s": work.scoring_s}
        content = {
            **self._facts,
            **self._attempt,
            "updated": updated,
            **work._asdict(),
            "rows": [row._asdict() for row in work.rows],
            "attempts": [*self._attempts, attempt],
        }
        # Always the same name: a worker that is killed here leaves nothing that stays.
        staged = self._path.with_name(f".{self._path.name}.tmp")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            staged.write_bytes(json_codec.dumps(content) + b"\n")
            os.replace(staged, self._path)


def read_all(run_dir: Path) -> dict[int, Beat]:
    """Return the newest heartbeat of each shard that has one; what is damaged counts as none."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(run_dir / PROGRESS):
            shard, suffix = os.path.splitext(name)
            if suffix == ".json" and shard.isdecimal():
                beat = _loaded(run_dir / PROGRESS / name)
                if beat is not None:
                    found[int(shard)] = beat
    return found


def is_alive_here(beat: Beat) -> bool:
    """Return whether the process that wrote a heartbeat runs, on this machine."""
    if beat["host"] != socket.gethostname():
        return False
    start: int = beat["process_start"]
    return provenance.start_ticks(beat["pid"]) == start


def _loaded(path: Path) -> Beat | None:
    try:
        beat = json_codec.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_whole = isinstance(beat, dict) and beat.keys() >= schema.table("heartbeat").keys()
    return beat if is_whole else None


def _job(environment: Mapping[str, str]) -> str:
    """Return the job as Slurm writes it, 4711_3; empty outside of one."""
    parts = map(environment.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    # A container that begins with a clean environment knows the job only.
    job, index = (part or "" for part in parts)
    return f"{job}_{index}" if job and index else job
