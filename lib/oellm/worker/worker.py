"""The worker: evaluates rows, with one model at a time, and each result a file.

It only directs. The model has a process of its own, which answers what the rows ask; each row is
evaluated in one of a few others. So while the model answers for one row, the next one is prepared,
and the metrics of the last one are computed; and what crashes takes one row with it.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core import display, json_codec
from oellm.core.stop_signals import StopSignals
from oellm.frameworks.interface import Evaluator
from oellm.manifest.model_key import ModelKey, model_key
from oellm.manifest.rows import Row
from oellm.runs import answers
from oellm.runs.answers import ANSWERS
from oellm.runs.heartbeat import Heartbeat, RowAtWork, Work
from oellm.runs.result_store import Result, ResultStore
from oellm.worker import row_record
from oellm.worker.model_service import ModelService
from oellm.worker.row_process import Ended, Job, RowProcess, kept_failure
from oellm.worker.row_record import Failure

# Draws for bootstrapped standard errors if the run has no setting: the usual hundred thousand take
# minutes for some metrics, and a thousand give two digits.
BOOTSTRAP_ITERS = 1000
# Rows at the same time, as far as there are cores: one is scored, the others prepared or finished.
_ROWS_AT_ONCE = 4
# Seconds that the model has to end its batch, and rows to write their results, when a signal came:
# after SIGTERM Slurm usually waits 30 before it kills.
TIME_TO_STOP = 20.0


@dataclass
class Tally:
    """How many rows ended how."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    # Not evaluated, since a signal came.
    left: int = 0
    # Of rows that are left, the answers that were added on disk.
    kept_bytes: int = 0


class Course(NamedTuple):
    """How to evaluate, and what of it goes into every result."""

    bootstrap_iters: int
    provenance: Mapping[str, Any]
    # Seconds from the start of this process to its first row; they are booked on that.
    start_s: float
    # Seconds to stop in when the time limit comes near, and not another signal.
    notice_s: float = TIME_TO_STOP
    # Where on this node's disk models are copied to before they are loaded; empty for nowhere.
    stage_dir: str = ""


class Output(NamedTuple):
    """Where a worker tells what it does."""

    # Gets the record of each row, as JSON on one line, when it is there.
    emit: Callable[[bytes], None]
    # Gets messages for the user.
    report: Callable[[str], None]
    # Shows a line on the terminal, where there is one.
    status: Callable[[str], None] | None
    # Gets what the worker does at the moment; None where there is no run.
    heartbeat: Heartbeat | None = None


class Worker:
    """Evaluates rows; each becomes a result or a recorded failure, and the others go on.

    `store` keeps results and failures; without one they are only emitted.
    """

    def __init__(
        self, store: ResultStore | None, output: Output, signals: StopSignals, course: Course
    ) -> None:
        self._store = store
        # Where answers to requests of unfinished rows are kept.
        self._answers = store.directory / ANSWERS if store is not None else None
        self._emit = output.emit
        self._report = output.report
        self._heartbeat = output.heartbeat
        self._signals = signals
        self._course = course
        self._tally = Tally()
        self._eval_ids: list[str] = []
        self._total = 0
        self._begun = 0
        self._waiting: deque[tuple[ModelKey, Row]] = deque()
        self._evaluators: dict[str, Evaluator] = {}
        self._booked = {"start_s": course.start_s}
        # In the order in which their rows began.
        self._busy: list[RowProcess] = []
        self._idle: list[RowProcess] = []
        self._model = ModelService(self._answers, output.report, output.status, course.stage_dir)
        # Of time.monotonic, once a signal has come; and whether that was one that leaves less time.
        self._deadline: float | None = None
        self._is_pressed = False

    def run(self, rows: Iterable[Row]) -> Tally:
        """Evaluate rows, those of one model together, in the order in which models appear."""
        by_model: dict[ModelKey, list[Row]] = {}
        rows = list(rows)
        self._eval_ids = [row["eval_id"] for row in rows]
        if self._store is not None:
            self._store.recover(set(self._eval_ids))
        for row in rows:
            if (result := self._finished(row)) is not None:
                self._skip(result)
            else:
                by_model.setdefault(model_key(row), []).append(row)
        self._waiting.extend((key, row) for key, group in by_model.items() for row in group)
        self._total = len(self._waiting)
        if self._tally.skipped:
            self._report(
                f"{self._tally.skipped} rows have results already, {self._total} to evaluate"
            )
        if self._waiting:
            before = self._kept_bytes()
            try:
                self._model.load(*self._waiting[0])
                self._beat()
                self._prepare()
                self._evaluate_all()
            finally:
                self._end()
            # Nothing is left of rows that are done, whatever had been kept for them.
            added = (size - before[row] for row, size in self._kept_bytes().items())
            self._tally.kept_bytes = sum(max(0, size) for size in added)
        self._tally.left = self._total - self._tally.done - self._tally.failed
        signal = self._signals.first
        self._beat(f"stopped by {signal.name}" if self._tally.left and signal else "finished")
        return self._tally

    def _kept_bytes(self) -> dict[str, int]:
        if self._answers is None:
            return {}
        return {each: answers.kept_bytes(self._answers, each) for each in self._eval_ids}

    def _finished(self, row: Row) -> Result | None:
        if self._store is None:
            return None
        result = self._store.valid_result(row["eval_id"])
        if result is None and (aside := self._store.set_aside(row["eval_id"])) is not None:
            self._report(f"invalid result set aside: {aside}")
        return result

    def _skip(self, result: Result) -> None:
        self._tally.skipped += 1
        if self._answers is not None:
            # What a worker left that was killed right after it had written the result.
            answers.remove(self._answers, result["oellm"]["eval_id"])
        self._emit(json_codec.dumps(result))

    def _prepare(self) -> None:
        """Import the frameworks, while the model's process does the same and loads the model."""
        started = time.perf_counter()
        for suite in dict.fromkeys(key.eval_suite for key, _ in self._waiting):
            rows = [row for key, row in self._waiting if key.eval_suite == suite]
            evaluator = frameworks.create_evaluator(suite, self._report)
            try:
                evaluator.prepare(rows)
            # Whatever an image lacks, or has in a state that cannot be imported.
            except Exception as error:
                failure = Failure.of(error)
                self._model.unloadable |= {model_key(row): failure for row in rows}
            self._evaluators[suite] = evaluator
        self._booked["imports_s"] = time.perf_counter() - started
        # What is there now is shared by all processes of rows, and garbage in none of them.
        gc.collect()
        gc.freeze()

    def _evaluate_all(self) -> None:
        while True:
            if self._signals.first is not None:
                self._set_deadline()
            if self._deadline is None:
                self._begin_rows()
                if not self._busy:
                    return
                self._model.direct(self._busy, self._waiting[0][0] if self._waiting else None)
            elif self._is_over():
                return
            self._wait()

    def _wait(self) -> None:
        """Wait for a message of any process, or a signal, and see to it."""
        rows = {process.child.connection: process for process in self._busy}
        signals = self._signals.fileno()
        for ready in wait([signals, *rows, *self._model.connections], self._patience()):
            if ready == signals:
                self._signals.drain()
            elif isinstance(ready, Connection) and ready in rows:
                self._hear_row(rows[ready])
            else:
                self._model.hear()
        self._beat()

    def _patience(self) -> float | None:
        """Return the seconds after which something is to do though nothing happens."""
        limits = [] if self._heartbeat is None else [self._heartbeat.patience()]
        if self._deadline is not None:
            limits.append(max(0.0, self._deadline - time.monotonic()))
        return min(limits, default=None)

    def _beat(self, ended: str = "") -> None:
        if self._heartbeat is None:
            return
        tally, progress = self._tally, self._model.progress
        rows = [] if ended else [self._at_work(process) for process in self._busy]
        self._heartbeat.beat(
            Work(
                len(self._eval_ids),
                tally.skipped,
                tally.done,
                tally.failed,
                rows,
                self._model.loading,
                round(progress.seconds, 3),
                ended,
            )
        )

    def _at_work(self, process: RowProcess) -> RowAtWork:
        assert process.row is not None
        eval_id, progress = process.row["eval_id"], self._model.progress
        if self._model.serves(process):
            facts = (progress.done, progress.total, progress.rate)
            return RowAtWork(eval_id, "scoring", process.started, *facts)
        phase = "waiting" if process.asks is not None else "preparing"
        return RowAtWork(eval_id, "finishing" if process.is_scored else phase, process.started)

    # Rows.

    def _begin_rows(self) -> None:
        at_once = max(2, min(_ROWS_AT_ONCE, len(os.sched_getaffinity(0)) + 1))
        while self._waiting and len(self._busy) < at_once:
            key, row = self._waiting.popleft()
            self._begun += 1
            if (result := self._finished(row)) is not None:
                # Another worker has this row, too.
                self._total -= 1
                self._skip(result)
                continue
            label = f"{self._begun}/{self._total} {row['model_path']} {row['task_path']}"
            label += f" n_shot={row['n_shot']}"
            job = Job(row, self._booked, self._course.provenance, self._course.bootstrap_iters)
            self._booked = {}
            if key in self._model.unloadable:
                self._fail(label, job, self._model.unloadable[key], display.utc_now())
                continue
            process = self._idle.pop() if self._idle else self._forked()
            self._busy.append(process)
            process.evaluate(key, label, job)

    def _forked(self) -> RowProcess:
        others = [process.child.connection for process in [*self._busy, *self._idle]]
        return RowProcess(self._evaluators, self._store, [*others, *self._model.connections])

    def _hear_row(self, process: RowProcess) -> None:
        try:
            message = process.receive()
        except (EOFError, ConnectionError):
            self._busy.remove(process)
            self._model.forget(process)
            failure = Failure("ProcessEnded", f"the process of the row {process.child.wait()}")
            assert process.row is not None
            job = Job(process.row, {}, self._course.provenance, self._course.bootstrap_iters)
            self._fail(process.label, job, failure, process.started)
            return
        if isinstance(message, Ended):
            self._busy.remove(process)
            self._idle.append(process)
            self._model.forget(process)
            self._note(process.label, message)
        elif self._deadline is None:
            process.asks = message

    def _fail(self, label: str, job: Job, failure: Failure, started: str) -> None:
        """Record that a row failed whose own process cannot."""
        result = row_record.failed(job.row, failure, started, job.booked, job.provenance)
        self._note(label, kept_failure(result, self._store))

    def _note(self, label: str, ended: Ended) -> None:
        if ended.is_done:
            self._tally.done += 1
        else:
            self._tally.failed += 1
        self._report(f"{label} {ended.summary}")
        for remark in ended.remarks:
            self._report(f"{label}: {remark}")
        self._emit(ended.line)

    # Stopping.

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._stop()
            self._deadline = time.monotonic() + self._course.notice_s
        if self._signals.is_pressing and not self._is_pressed:
            self._is_pressed = True
            self._deadline = min(self._deadline, time.monotonic() + TIME_TO_STOP)

    def _stop(self) -> None:
        """Let the model end its batch, and rows that are scored write their results."""
        for process in list(self._busy):
            if not process.is_scored or self._model.serves(process):
                self._busy.remove(process)
                self._model.forget(process)
                process.child.kill()
        self._model.stop()

    def _is_over(self) -> bool:
        assert self._deadline is not None
        self._model.end_if_idle()
        is_late = time.monotonic() > self._deadline
        return self._signals.is_urgent or is_late or not (self._busy or self._model.is_there)

    def _end(self) -> None:
        self._model.end()
        for process in [*self._busy, *self._idle]:
            process.child.kill()
