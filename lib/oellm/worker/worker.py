"""The worker: evaluates rows with one model at a time, and writes each result to a file.

This process only directs. The model has a process of its own, which answers the requests of rows.
A few other processes each evaluate one row. So while the model answers for one row, the next rows
are prepared and the metrics of the last row are computed, and a crash costs only one row.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait

from oellm.core.processes.stop_signals import StopSignals
from oellm.manifest.rows import Row
from oellm.runs import answers
from oellm.runs.heartbeat import RowAtWork, RowPhase, WorkerState
from oellm.runs.run_directory import ANSWERS
from oellm.worker import gpu_check
from oellm.worker.model_service import ModelService
from oellm.worker.row_contents import RowContents
from oellm.worker.row_ledger import RowCounts, Sinks, Stores
from oellm.worker.row_process import RowProcess
from oellm.worker.row_scheduler import RowScheduler, RunOptions
from oellm.worker.stopper import Stopper


class Worker:
    """Evaluates rows; each becomes a result, the output of its first stage, or a recorded failure.

    `stores` keeps them; without a store of results these are only emitted.
    """

    def __init__(
        self, stores: Stores, sinks: Sinks, signals: StopSignals, options: RunOptions
    ) -> None:
        store = stores.results
        # The directory that keeps answers to the requests of unfinished rows.
        self._answers = store.directory / ANSWERS if store is not None else None
        contents = RowContents(options.accepted, sinks.log)
        self._model = ModelService(
            self._answers,
            contents,
            sinks.log,
            status=sinks.status,
            stage_dir=options.stage_dir,
            gpus=options.gpus,
        )
        self._options = options
        self._log = sinks.log
        self._rows = RowScheduler(
            stores, sinks, options=options, model=self._model, contents=contents
        )
        self._stopper = Stopper(signals, options.notice_s)
        self._heartbeat = sinks.heartbeat
        self._eval_ids: list[str] = []

    def run(self, rows: Iterable[Row]) -> RowCounts:
        """Evaluate rows, grouped by model; models come in the order of their first rows."""
        rows = list(rows)
        self._eval_ids = [row["eval_id"] for row in rows]
        self._rows.add(rows)
        counts = self._rows.counts
        if self._rows.waiting and not self._has_gpus():
            self._rows.finish()
        elif self._rows.waiting:
            before = self._kept_bytes()
            try:
                self._model.load(*self._rows.waiting[0])
                self._beat()
                self._rows.import_frameworks()
                self._evaluate_all()
            finally:
                self._model.kill()
                self._rows.finish()
            # The answers of finished rows are gone, whatever was kept for them.
            added = (size - before[row] for row, size in self._kept_bytes().items())
            counts.kept_bytes = sum(max(0, size) for size in added)
        if not counts.left:
            # What the machine lacked, no row has missed.
            counts.halt = None
        self._beat(self._describe_end() if counts.left else "finished")
        return counts

    def _has_gpus(self) -> bool:
        """Return whether the worker's GPUs may be usable; note why they are not."""
        gpus = self._options.gpus
        obstacle = gpu_check.find_obstacle(gpus.number) if gpus.number else ""
        if obstacle and gpus.allow_cpu:
            self._log(gpu_check.warn_of_cpu(gpus.number, obstacle))
            self._model.gpus = gpu_check.NO_GPUS
        elif obstacle:
            self._note_unusable(obstacle)
        return self._rows.counts.halt is None

    def _note_unusable(self, obstacle: str) -> None:
        self._rows.counts.halt = gpu_check.describe_unusable(self._options.gpus.number, obstacle)

    def _describe_end(self) -> str:
        if (halt := self._rows.counts.halt) is None:
            return self._stopper.describe()
        return "stopped: its node is unusable" if halt.is_unusable else f"stopped: {halt.reason}"

    def _kept_bytes(self) -> dict[str, int]:
        if self._answers is None:
            return {}
        return {row: answers.kept_bytes(self._answers, row) for row in self._eval_ids}

    def _evaluate_all(self) -> None:
        while True:
            if self._stopper.update():
                self._rows.kill_unscored()
                self._model.stop()
            if self._must_halt():
                # Rows that have their answers may still write their results.
                self._stopper.halt()
                self._rows.kill_unscored()
                self._model.kill()
            if self._stopper.deadline is None:
                self._rows.begin_rows()
                if not self._rows.busy:
                    return
                self._model.dispatch(self._rows.busy, self._rows.next_key())
            else:
                self._model.kill_if_idle()
                is_finished = not (self._rows.busy or self._model.has_process)
                if is_finished or self._stopper.must_end():
                    return
            self._wait()

    def _must_halt(self) -> bool:
        """Return whether the machine lets the worker evaluate nothing more."""
        counts = self._rows.counts
        if self._model.unusable and counts.halt is None:
            self._note_unusable(self._model.unusable)
        return counts.halt is not None

    def _wait(self) -> None:
        """Wait for a message of any process, or a signal, and act on it."""
        rows = {process.child.connection: process for process in self._rows.busy}
        signals = self._stopper.fileno()
        for ready in wait([signals, *rows, *self._model.connections], self._seconds_to_wait()):
            if ready == signals:
                self._stopper.drain()
            elif isinstance(ready, Connection) and ready in rows:
                is_stopping = self._stopper.deadline is not None
                self._rows.receive(rows[ready], is_stopping)
            else:
                self._model.receive()
        if self._stopper.deadline is None:
            self._rows.end_overdue()
            self._model.end_overdue_loading()
            if self._options.script.has_ended():
                os.kill(os.getpid(), signal.SIGTERM)
        self._beat()

    def _seconds_to_wait(self) -> float | None:
        """Return after how many seconds a heartbeat or the deadline is due; None for never."""
        limits = [] if self._heartbeat is None else [self._heartbeat.seconds_until_due()]
        if self._stopper.deadline is not None:
            limits.append(self._stopper.deadline - time.monotonic())
        else:
            limits.append(self._rows.seconds_to_overdue())
            limits.append(self._model.seconds_to_load())
        soonest = max(0.0, min(limits))
        return soonest if math.isfinite(soonest) else None

    def _beat(self, ended: str = "") -> None:
        if self._heartbeat is None:
            return
        counts = self._rows.counts
        halt = counts.halt
        rows = [] if ended else [self._row_at_work(process) for process in self._rows.busy]
        self._heartbeat.beat(
            WorkerState(
                total=len(self._eval_ids),
                skipped=counts.skipped,
                done=counts.done,
                failed=counts.failed,
                rows=tuple(rows),
                loading=self._model.loading,
                scoring_s=round(self._model.progress.seconds, 3),
                ended=ended,
                unusable=halt.reason if ended and halt is not None and halt.is_unusable else "",
            )
        )

    def _row_at_work(self, process: RowProcess) -> RowAtWork:
        assert process.row is not None
        eval_id, progress = process.row["eval_id"], self._model.progress
        if self._model.is_serving(process):
            return RowAtWork(
                eval_id=eval_id,
                phase=RowPhase.SCORING,
                started=process.started,
                requests_done=progress.done,
                requests_total=progress.total,
                requests_per_s=progress.rate,
            )
        phase = RowPhase.WAITING if process.asks is not None else RowPhase.PREPARING
        if process.is_scored:
            phase = RowPhase.FINISHING
        return RowAtWork(eval_id=eval_id, phase=phase, started=process.started)
