"""The heartbeat of a worker: what it does now, in RUN_DIR/progress/SHARD.json for oe-status.

The worker's directing process writes it, since that process stays responsive while a model loads
or a long batch is computed. A missing or stale heartbeat costs no row anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm.core import atomic, json_codec
from oellm.core.display import parse_time, utc_now
from oellm.core.paths import make_directory
from oellm.core.redaction import redact_json
from oellm.core.regular_files import STATE, read_regular
from oellm.core.text_enum import TextEnum
from oellm.runs import provenance
from oellm.runs.run_directory import PROGRESS
from oellm.runs.run_record import read_fields

# Seconds between two heartbeats if nothing begins or ends.
EVERY = 10.0
# Seconds between two heartbeats if much begins or ends.
_AT_LEAST = 1.0


class RowPhase(TextEnum):
    """What happens to a row that a worker has begun."""

    PREPARING = "preparing"
    # For the model: it loads, or answers another row.
    WAITING = "waiting"
    SCORING = "scoring"
    FINISHING = "finishing"


@dataclass(frozen=True)
class RowAtWork:
    """A row that a worker has begun and not ended.

    Attributes:
        eval_id: The identity of the row.
        phase: What happens to it.
        started: When it began (UTC, ISO 8601).
        requests_done: Of the requests that the model answers now: those that it has answered.
        requests_total: All of these requests; 0 if the model answers none now.
        requests_per_s: Requests a second, None if not known yet.
        stage: The stage that is computed; empty if the row has one.
    """

    eval_id: str
    phase: RowPhase
    started: str
    requests_done: int = 0
    requests_total: int = 0
    requests_per_s: float | None = None
    stage: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RowAtWork:
        """Read an entry of `rows` in a heartbeat."""
        row = read_fields(cls, content, phase=RowPhase(content["phase"]))
        parse_time(row.started)
        return row

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `rows` in a heartbeat."""
        return dataclasses.asdict(self) | {"phase": self.phase.value}


@dataclass(frozen=True)
class WorkerState:
    """What a worker does.

    Attributes:
        total: Rows of the shard.
        skipped: Rows that had a result before this worker started.
        done: Rows that this worker has evaluated.
        failed: Rows that failed in this worker.
        rows: The rows that it has begun and not ended.
        loading: The path of the model that is being loaded, empty if none is.
        scoring_s: Seconds in which the model answered.
        ended: How the worker ended, empty while it works.
        unusable: Why the node cannot evaluate the shard (it shows no GPU, say); empty if it can.
        generated: Rows whose first stage of two this worker has computed.
    """

    total: int
    skipped: int
    done: int
    failed: int
    rows: tuple[RowAtWork, ...]
    loading: str
    scoring_s: float
    ended: str = ""
    unusable: str = ""
    generated: int = 0

    @property
    def ended_rows(self) -> int:
        """The rows that this worker is done with."""
        return self.done + self.failed + self.generated

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> WorkerState:
        """Read the keys of a heartbeat that say what the worker does."""
        rows = tuple(map(RowAtWork.from_json, content["rows"]))
        return read_fields(cls, content, rows=rows)

    def to_json(self) -> dict[str, Any]:
        """Return these keys of a heartbeat."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return content | {"rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class Attempt:
    """One process that worked on a shard.

    Attributes:
        job: The Slurm job, for example `4711_3`; empty outside of one.
        gpus: GPUs of the worker.
        started: When its process started (UTC, ISO 8601).
        updated: When it last wrote a heartbeat.
        scoring_s: Seconds in which the model answered.
    """

    job: str
    gpus: int
    started: str
    updated: str
    scoring_s: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Attempt:
        """Read an entry of `attempts` in a heartbeat."""
        attempt = read_fields(cls, content)
        for moment in (attempt.started, attempt.updated):
            parse_time(moment)
        return attempt

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `attempts` in a heartbeat."""
        return dataclasses.asdict(self)

    @property
    def start_time(self) -> datetime.datetime:
        """When the process started."""
        return parse_time(self.started)

    @property
    def update_time(self) -> datetime.datetime:
        """When it last wrote a heartbeat."""
        return parse_time(self.updated)

    @property
    def seconds(self) -> float:
        """Seconds from the start to the last heartbeat."""
        return max(0.0, (self.update_time - self.start_time).total_seconds())


@dataclass(frozen=True)
class Heartbeat:
    """What a worker wrote last (schema.json, table `heartbeat`).

    Attributes:
        shard: The shard of the worker.
        host: The machine that it runs on.
        pid: Its process id there.
        process_start: When that process started, in ticks since the machine started.
        attempt: This process as the newest attempt at the shard.
        state: What it does.
        earlier: The attempts before this one, oldest first.
    """

    shard: int
    host: str
    pid: int
    process_start: int | None
    attempt: Attempt
    state: WorkerState
    earlier: tuple[Attempt, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Heartbeat:
        """Read a heartbeat; raises KeyError, TypeError or ValueError if it is none."""
        *earlier, attempt = map(Attempt.from_json, content["attempts"])
        state = WorkerState.from_json(content)
        return read_fields(cls, content, attempt=attempt, state=state, earlier=tuple(earlier))

    def to_json(self) -> dict[str, Any]:
        """Return the heartbeat as in the file."""
        return {
            "shard": self.shard,
            "host": self.host,
            "pid": self.pid,
            "process_start": self.process_start,
            "job": self.attempt.job,
            "gpus": self.attempt.gpus,
            "started": self.attempt.started,
            "updated": self.attempt.updated,
            **self.state.to_json(),
            "attempts": [attempt.to_json() for attempt in self.attempts],
        }

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts at the shard, this one last."""
        return (*self.earlier, self.attempt)

    def is_alive_here(self) -> bool:
        """Return whether the process that wrote this runs on this machine."""
        if self.host != socket.gethostname():
            return False
        return provenance.start_ticks(self.pid) == self.process_start


class HeartbeatWriter:
    """Writes the heartbeats of the worker of one shard.

    `gpus` is the number of GPUs of the worker.
    """

    def __init__(self, run_dir: Path, shard: int, gpus: int) -> None:
        self._path = run_dir / PROGRESS / f"{shard}.json"
        atomic.remove_leftovers(self._path)
        before = _read_heartbeat(self._path)
        age = datetime.timedelta(seconds=provenance.start_seconds())
        began = datetime.datetime.now(datetime.timezone.utc) - age
        self._shard = shard
        self._earlier = before.attempts if before is not None else ()
        self._attempt = Attempt(
            job=_job(os.environ),
            gpus=gpus,
            started=began.isoformat(timespec="milliseconds"),
            updated="",
            scoring_s=0.0,
        )
        self._process_start = provenance.start_ticks()
        self._written_steps: object = None
        self._is_behind = False
        self._written_at = float("-inf")

    def beat(self, state: WorkerState) -> None:
        """Write a heartbeat if one is due: something began or ended, or 10 s are over."""
        steps = _steps(state)
        silence = time.monotonic() - self._written_at
        self._is_behind = steps != self._written_steps
        if state.ended or silence >= self._interval():
            self._write(state)
            self._written_steps, self._is_behind = steps, False
            self._written_at = time.monotonic()

    def seconds_until_due(self) -> float:
        """Return the seconds after which the worker must call `beat`, whatever happens."""
        return max(0.0, self._written_at + self._interval() - time.monotonic())

    def _interval(self) -> float:
        return _AT_LEAST if self._is_behind else EVERY

    def _write(self, state: WorkerState) -> None:
        heartbeat = Heartbeat(
            shard=self._shard,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_start=self._process_start,
            attempt=dataclasses.replace(
                self._attempt, updated=utc_now(), scoring_s=state.scoring_s
            ),
            state=state,
            earlier=self._earlier,
        )
        with contextlib.suppress(OSError):
            make_directory(self._path.parent, parents=False)
            content = redact_json(json_codec.dumps(heartbeat.to_json())) + b"\n"
            atomic.replace_file(self._path, content)


def read_heartbeats(run_dir: Path) -> dict[int, Heartbeat]:
    """Return the newest heartbeat of each shard that has one, skipping damaged ones."""
    heartbeats = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(run_dir / PROGRESS):
            shard, suffix = os.path.splitext(name)
            if suffix == ".json" and shard.isascii() and shard.isdecimal():
                heartbeat = _read_heartbeat(run_dir / PROGRESS / name)
                if heartbeat is not None:
                    heartbeats[int(shard)] = heartbeat
    return heartbeats


def read_heartbeat(run_dir: Path, shard: int) -> Heartbeat | None:
    """Return the newest heartbeat of a shard, None if there is none or it is damaged."""
    return _read_heartbeat(run_dir / PROGRESS / f"{shard}.json")


def _read_heartbeat(path: Path) -> Heartbeat | None:
    try:
        return Heartbeat.from_json(json_codec.loads(read_regular(path, STATE)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _steps(state: WorkerState) -> tuple[object, ...]:
    """Return what changes only if something begins or ends."""
    rows: Iterable[object] = ((row.eval_id, row.phase) for row in state.rows)
    return (state.done, state.failed, state.generated, tuple(rows), state.loading, state.ended)


def _job(environment: Mapping[str, str]) -> str:
    """Return the job as Slurm writes it, 4711_3; empty outside of one."""
    parts = map(environment.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    # In a container that starts with a clean environment, only the job id is known.
    job, index = (part or "" for part in parts)
    return f"{job}_{index}" if job and index else job
