"""Evaluates rows in a few processes: begins them, receives what they say, counts how they end."""

from __future__ import annotations

import gc
import math
import os
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import NamedTuple

from oellm import frameworks
from oellm.core import display
from oellm.frameworks.interface import Evaluator
from oellm.manifest.model_key import ModelKey, model_key
from oellm.manifest.rows import Row
from oellm.runs.accepted_contents import AcceptedContents
from oellm.runs.result_record import Facts, RowTiming
from oellm.worker import time_limit
from oellm.worker.gpu_check import GpuDemand
from oellm.worker.halts import Halt
from oellm.worker.job_script import JobScript
from oellm.worker.model_service import ModelService
from oellm.worker.programs.kept_outputs import KeptOutputs
from oellm.worker.programs.stage_batch import DueStage, resident_stage
from oellm.worker.row_contents import ContentsChangedError, RowContents
from oellm.worker.row_ledger import RowLedger, Sinks, Stores
from oellm.worker.row_process import RowProcess
from oellm.worker.row_record import Ended, Job, RowFailure
from oellm.worker.stopper import TIME_TO_STOP
from oellm.worker.time_limit import RowLimit

# Draws for bootstrapped standard errors if the run has no setting: the usual hundred thousand take
# minutes for some metrics, and a thousand give two digits.
BOOTSTRAP_ITERS = 1000
# Rows that are evaluated at once if there are enough cores: one is scored, the others are prepared
# or finished.
_ROWS_AT_ONCE = 4


class RunOptions(NamedTuple):
    """How to evaluate.

    Attributes:
        bootstrap_iters: Draws for bootstrapped standard errors.
        provenance: The part of the provenance that goes into every result.
        start_s: Seconds from the start of this process to its first row, which count as that
            row's own.
        notice_s: Seconds to stop in before the time limit of the job.
        stage_dir: The directory on this node's disk that models are copied to before they are
            loaded; empty for no copy.
        gpus: What the worker was given.
        row_limit: How long a row may take, unless its column row_timeout says otherwise.
        accepted: The state of models and tasks that the run has accepted; None without a run.
        script: The batch script that has started the worker.
    """

    bootstrap_iters: int
    provenance: Facts
    start_s: float
    notice_s: float = TIME_TO_STOP
    stage_dir: str = ""
    gpus: GpuDemand = GpuDemand()
    row_limit: RowLimit = RowLimit()
    accepted: AcceptedContents | None = None
    script: JobScript = JobScript({})


class RowScheduler:
    """Evaluates rows, each to a result, the output of its first stage, or a recorded failure.

    `stores` keeps them; without a store of results these are only emitted.

    Attributes:
        ledger: How rows ended so far.
        counts: The numbers of it.
        waiting: The rows that have not begun, with their models; those of a model are together.
        busy: The processes that evaluate a row, in the order in which their rows began.
    """

    def __init__(
        self,
        stores: Stores,
        sinks: Sinks,
        options: RunOptions,
        *,
        model: ModelService,
        contents: RowContents,
    ) -> None:
        self.ledger = RowLedger(stores.results, sinks, contents)
        self._stores = stores
        self._outputs = KeptOutputs(stores.stages, contents, sinks.log)
        self._contents = contents
        self._sinks = sinks
        self._options = options
        self._model = model
        self.counts = self.ledger.counts
        self.waiting: deque[tuple[ModelKey, Row]] = deque()
        self.busy: list[RowProcess] = []
        self._idle: list[RowProcess] = []
        self._evaluators: dict[str, Evaluator] = {}
        # Seconds that count as those of the next row to begin.
        self._booked = RowTiming(start_s=options.start_s)
        self._begun = 0
        self._total = 0
        # Rows whose first stage had its output before.
        self._kept = 0

    def add(self, rows: list[Row]) -> None:
        """Queue rows, grouped by model, except for those that have a result."""
        if self._stores.results is not None:
            self._stores.results.recover({row["eval_id"] for row in rows})
        by_model: dict[ModelKey, list[Row]] = {}
        for row in rows:
            if (result := self.ledger.stored_result(row)) is not None:
                self.ledger.skip(result)
            elif self._has_output(row):
                self._kept += 1
            else:
                by_model.setdefault(model_key(row), []).append(row)
        self.waiting.extend((key, row) for key, group in by_model.items() for row in group)
        self._total = len(self.waiting)
        for key, group in by_model.items():
            limits = (time_limit.find_limit(row, self._options.row_limit) for row in group)
            self._model.longest_rows[key] = max(limit.seconds for limit in limits)
        if self.counts.skipped:
            self._sinks.log(
                f"{self.counts.skipped} rows already have results, {self._total} to evaluate"
            )

    def import_frameworks(self) -> None:
        """Import the frameworks of the rows; meanwhile the model's process loads the first model.

        If a framework cannot be imported, its rows fail when they begin.
        """
        started = time.perf_counter()
        for suite in dict.fromkeys(key.eval_suite for key, _ in self.waiting):
            rows = [row for key, row in self.waiting if key.eval_suite == suite]
            evaluator = frameworks.create_evaluator(suite, self._sinks.log)
            try:
                evaluator.prepare(rows)
            # The image may lack something, or have it in a state that cannot be imported.
            except Exception as error:
                failure = RowFailure.from_error(error)
                self._model.unloadable |= {model_key(row): failure for row in rows}
            self._evaluators[suite] = evaluator
        self._booked.imports_s = time.perf_counter() - started
        # All row processes share the present objects; none of them should look at them for garbage.
        gc.collect()
        gc.freeze()

    def begin_rows(self) -> None:
        """Begin as many rows as may run at once."""
        at_once = max(2, min(_ROWS_AT_ONCE, len(os.sched_getaffinity(0)) + 1))
        while self.waiting and len(self.busy) < at_once:
            self._begin(*self.waiting.popleft())

    def next_key(self) -> ModelKey | None:
        """Return the model of the next row to begin; None if no row is waiting."""
        return self.waiting[0][0] if self.waiting else None

    def receive(self, process: RowProcess, is_stopping: bool) -> None:
        """Receive a message of a row and act on it; a stopping worker ignores questions."""
        try:
            message = process.receive()
        except (EOFError, ConnectionError):
            self._note_crash(process)
            return
        if isinstance(message, Halt):
            self.ledger.note_halt(message)
            self.busy.remove(process)
            self._idle.append(process)
            self._model.drop(process)
        elif isinstance(message, Ended):
            self.busy.remove(process)
            self._idle.append(process)
            self._model.drop(process)
            self.ledger.note_end(process.label, message)
        elif not is_stopping:
            process.ask(message)

    def seconds_to_overdue(self) -> float:
        """Return the seconds until the first row has taken too long; infinite without a limit."""
        return min((process.stopwatch.seconds_left for process in self.busy), default=math.inf)

    def end_overdue(self) -> None:
        """Let rows fail that have taken too long; the others go on."""
        for process in list(self.busy):
            if process.stopwatch.seconds_left > 0:
                continue
            limit_s = process.stopwatch.limit.seconds
            if self._model.is_serving(process):
                progress = self._model.progress
                of_total = f"{progress.done} of {progress.total} requests"
                what = f"and the model has answered {of_total if progress.done else 'nothing'}"
                # Its own process records the failure; if it hangs, too, the next look ends it.
                process.stopwatch.start(RowLimit(time_limit.TO_RECORD_S))
                self._model.fail_served(_timeout(limit_s, what))
                continue
            self.busy.remove(process)
            self._model.drop(process)
            process.child.kill()
            assert process.row is not None
            step = "after the model's answers" if process.is_scored else "before it asked the model"
            self.ledger.record_failure(
                process.label,
                self._make_job(process.row, RowTiming()),
                failure=_timeout(limit_s, f"and its process hangs {step}"),
                started=process.started,
            )

    def kill_unscored(self) -> None:
        """End the rows that the model has not fully answered; others may write their results."""
        for process in list(self.busy):
            if not process.is_scored or self._model.is_serving(process):
                self.busy.remove(process)
                self._model.drop(process)
                process.child.kill()

    def finish(self) -> None:
        """End all processes; rows that have not ended count as left."""
        for process in [*self.busy, *self._idle]:
            process.child.kill()
        counts = self.counts
        counts.left = self._total - counts.done - counts.failed - counts.generated
        counts.ready += self._kept

    def _begin(self, key: ModelKey, row: Row) -> None:
        self._begun += 1
        if (result := self.ledger.stored_result(row)) is not None:
            # Another worker, which has the same row, was faster.
            self._total -= 1
            self.ledger.skip(result)
            return
        label = f"{self._begun}/{self._total} {row['model_path']} {row['task_path']}"
        if row["n_shot"]:
            label += f" n_shot={row['n_shot']}"
        job = self._make_job(row, self._booked)
        self._booked = RowTiming()
        failure = self._model.unloadable.get(key)
        try:
            job = job._replace(contents=self._contents.require_unchanged(row))
        except ContentsChangedError as error:
            failure = RowFailure(type(error).__name__, str(error))
        if failure is not None:
            self.ledger.record_failure(label, job, failure=failure, started=display.utc_now())
            return
        process = self._idle.pop() if self._idle else self._fork()
        self.busy.append(process)
        limit = time_limit.find_limit(row, self._options.row_limit)
        process.evaluate(key, label, job, limit=limit)

    def _make_job(self, row: Row, booked: RowTiming) -> Job:
        return Job(
            row=row,
            booked=booked,
            provenance=self._options.provenance,
            bootstrap_iters=self._options.bootstrap_iters,
            expected=self._contents.expect(row),
            key=staged.key if (staged := self._first_stage(row)) is not None else "",
        )

    def _first_stage(self, row: Row) -> DueStage | None:
        """Return the first of a row's two stages; None if the row has one.

        In a run, the plan decides: without a second shard nobody would compute the second stage.
        """
        if self._options.accepted is not None and not row["evaluate_shard"]:
            return None
        return resident_stage(row)

    def _has_output(self, row: Row) -> bool:
        """Return whether the first stage of a row has an output that fits."""
        staged = self._first_stage(row)
        return staged is not None and self._outputs.find(staged) is not None

    def _fork(self) -> RowProcess:
        others: list[Connection] = [
            process.child.connection for process in [*self.busy, *self._idle]
        ]
        return RowProcess(self._evaluators, self._stores, [*others, *self._model.connections])

    def _note_crash(self, process: RowProcess) -> None:
        self.busy.remove(process)
        self._model.drop(process)
        failure = RowFailure("ProcessEnded", f"the row's process {process.child.wait()}")
        assert process.row is not None
        job = self._make_job(process.row, RowTiming())
        self.ledger.record_failure(process.label, job, failure=failure, started=process.started)


def _timeout(limit_s: float, what: str) -> RowFailure:
    return RowFailure("RowTimeout", time_limit.describe_excess(limit_s, what))
