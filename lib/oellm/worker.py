"""The worker: evaluates rows, one model load for all rows of a model, each result a file."""

from __future__ import annotations

import datetime
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from oellm import __version__, frameworks, schema
from oellm.errors import OellmError
from oellm.frameworks import Evaluation, Session
from oellm.manifest import Row
from oellm.results import Result, ResultStore, problem
from oellm.shards import ModelKey, model_key

_SLURM_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_RESTART_COUNT",
)


@dataclass
class Tally:
    """How many rows ended how."""

    done: int = 0
    skipped: int = 0
    failed: int = 0


class Worker:
    """Evaluates rows; each becomes a result or a recorded failure, and the others go on.

    `store` keeps results and failures (None: they are only emitted); `emit` gets the record of
    each row when it is there; `report` gets messages for the user.
    """

    def __init__(
        self,
        store: ResultStore | None,
        emit: Callable[[Result], None],
        report: Callable[[str], None],
    ) -> None:
        self._store = store
        self._emit = emit
        self._report = report
        self._sessions: dict[str, Session] = {}
        self._unloadable: dict[ModelKey, str] = {}
        # Seconds that were spent before a row and are booked on the next row that ends.
        self._unbooked: dict[str, float] = {}

    def run(self, rows: Iterable[Row]) -> Tally:
        """Evaluate rows, those of one model together, in the order in which models appear."""
        tally = Tally()
        by_model: dict[ModelKey, list[Row]] = {}
        for row in rows:
            if (result := self._finished(row)) is not None:
                tally.skipped += 1
                self._emit(result)
            else:
                by_model.setdefault(model_key(row), []).append(row)
        total = sum(map(len, by_model.values()))
        if tally.skipped:
            self._report(f"{tally.skipped} rows have results already, {total} to evaluate")
        for key, group in by_model.items():
            for row in group:
                position = tally.done + tally.failed + 1
                if self._evaluate(key, row, f"{position}/{total}"):
                    tally.done += 1
                else:
                    tally.failed += 1
        return tally

    def _finished(self, row: Row) -> Result | None:
        if self._store is None:
            return None
        result = self._store.valid_result(row["eval_id"])
        if result is None and (aside := self._store.set_aside(row["eval_id"])) is not None:
            self._report(f"invalid result set aside: {aside}")
        return result

    def _evaluate(self, key: ModelKey, row: Row, position: str) -> bool:
        label = f"{position} {row['model_path']} {row['task_path']} n_shot={row['n_shot']}"
        started, clock = _now(), time.perf_counter()
        evaluation = None
        try:
            session = self._loaded(key, row)
            self._book("task_index_s", session.index_tasks(row))
            clock = time.perf_counter()
            evaluation = session.evaluate(row)
            self._book("evaluate_s", time.perf_counter() - clock)
            result = self._keep(row, evaluation, self._record(row, "done", started))
        except KeyboardInterrupt:
            raise
        # A task may call sys.exit, and a harness may raise anything: that is one row's failure.
        except BaseException as error:
            if evaluation is None:
                self._book("evaluate_s", time.perf_counter() - clock)
            result = self._keep_failure(error, self._record(row, "failed", started))
            self._report(f"{label} failed: {type(error).__name__}: {error}")
        else:
            seconds = result["oellm"]["timing"]["evaluate_s"]
            self._report(f"{label} done in {seconds:.1f} s: {_headline(evaluation)}")
            for remark in evaluation.remarks:
                self._report(f"{label}: {remark}")
        self._unbooked.clear()
        self._emit(result)
        return "failure" not in result["oellm"]

    def _book(self, name: str, seconds: float) -> None:
        self._unbooked[name] = self._unbooked.get(name, 0.0) + seconds

    def _loaded(self, key: ModelKey, row: Row) -> Session:
        """Return the session with the row's model loaded; a load that failed is not tried again."""
        if key in self._unloadable:
            raise OellmError(f"the model did not load: {self._unloadable[key]}")
        try:
            session = self._session(key)
            self._book("model_load_s", session.load(key, row))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Its text: the error itself would keep alive what was loaded so far.
            self._unloadable[key] = f"{type(error).__name__}: {error}"
            raise
        return session

    def _session(self, key: ModelKey) -> Session:
        if key.eval_suite not in self._sessions:
            started = time.perf_counter()
            session = frameworks.session(key.eval_suite)
            session.prepare()
            self._book("imports_s", time.perf_counter() - started)
            self._sessions[key.eval_suite] = session
        return self._sessions[key.eval_suite]

    def _keep(self, row: Row, evaluation: Evaluation, record: dict[str, Any]) -> Result:
        record["metrics"] = evaluation.metrics
        record["remarks"] = evaluation.remarks
        result = {**evaluation.native, "oellm": record}
        if self._store is not None:
            if row.value("log_samples"):
                self._store.write_samples(row["eval_id"], evaluation.samples)
            self._store.write_result(result)
        elif reason := problem(result):
            raise ValueError(f"the result is not valid: {reason}")
        return result

    def _keep_failure(self, error: BaseException, record: dict[str, Any]) -> Result:
        record["failure"] = {
            "class": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "attempts": 1,
            "log": _log_file(),
        }
        if self._store is not None:
            self._store.write_failure({"oellm": record})
        return {"oellm": record}

    def _record(self, row: Row, status: str, started: str) -> dict[str, Any]:
        session = self._sessions.get(row.value("eval_suite"))
        timing = {
            "imports_s": 0.0,
            "task_index_s": 0.0,
            "model_load_s": 0.0,
            "evaluate_s": 0.0,
            **self._unbooked,
        }
        return {
            "schema_version": schema.VERSION,
            "eval_id": row["eval_id"],
            "status": status,
            "row": {name: text for name, text in row.cells.items() if name != "shard"},
            "timing": {
                **{name: round(value, 6) for name, value in timing.items()},
                "started": started,
                "finished": _now(),
            },
            "provenance": {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "slurm": {
                    name: os.environ[name] for name in _SLURM_VARIABLES if name in os.environ
                },
                "run_dir": str(self._store.directory) if self._store else "",
                "versions": {
                    "oellm": __version__,
                    "python": platform.python_version(),
                    **(session.versions() if session else {}),
                },
            },
        }


def _headline(evaluation: Evaluation) -> str:
    first = evaluation.metrics[0] if evaluation.metrics else None
    return f"{first['metric']} {first['value']:.4f}" if first else "no metrics"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def _log_file() -> str:
    """Return the file that stderr goes to, where it is a file: the log of the job."""
    try:
        path = os.readlink(f"/proc/self/fd/{sys.stderr.fileno()}")
    except (OSError, ValueError):
        return ""
    return path if os.path.isfile(path) else ""
