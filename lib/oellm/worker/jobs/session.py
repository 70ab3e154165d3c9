"""Evaluates what a worker is given: rows with resident models first, then those of programs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from oellm import frameworks
from oellm.core import display
from oellm.core.processes.stop_signals import StopSignals
from oellm.errors import InputError, OellmError
from oellm.frameworks.added_program import AdapterError
from oellm.manifest.rows import Row
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_store import StageStore
from oellm.worker.jobs.assignment import Assignment
from oellm.worker.programs.attempts import ProgramStarter
from oellm.worker.programs.program_worker import ProgramWorker
from oellm.worker.programs.stage_batch import NUMBERS, Part, resident_stage, stage_row
from oellm.worker.row_contents import RowContents
from oellm.worker.row_ledger import RowCounts, RowLedger, Sinks, Stores
from oellm.worker.row_record import Job, RowFailure
from oellm.worker.row_scheduler import RunOptions
from oellm.worker.worker import Worker

# The counts of rows.
_COUNTS = ("done", "skipped", "failed", "generated", "ready", "without_input", "left")


class Session:
    """One worker's work.

    Attributes:
        counts: How rows ended.
    """

    def __init__(
        self, assignment: Assignment, sinks: Sinks, signals: StopSignals, *, options: RunOptions
    ) -> None:
        self._assignment = assignment
        self._sinks = sinks
        self._signals = signals
        self._options = options
        self.counts = RowCounts()

    def evaluate(self) -> None:
        """Evaluate the rows, or compute one stage of them."""
        part = self._assignment.part
        resident, of_programs = [], []
        for row in self._assignment.rows:
            try:
                is_resident = frameworks.stages_of(row)[0].is_resident
                is_of_program = any(stage_row(row, number) is not None for number in NUMBERS[part])
            except (AdapterError, InputError) as error:
                self._record_failure(row, error)
                continue
            if is_resident and part != Part.LATER:
                resident.append(row)
            if is_of_program:
                of_programs.append(row)
        with self._stage_store() as stages_kept:
            if resident:
                stores = Stores(self._assignment.store, stages_kept)
                worker = Worker(stores, self._sinks, self._signals, options=self._options)
                self._add(worker.run(resident))
            if part == Part.ALL:
                # Their second stages come now; the others have ended, or are left.
                self.counts.generated = self.counts.ready = 0
                of_programs = [row for row in of_programs if _is_due(row, stages_kept)]
            if of_programs and self._is_over:
                self.counts.left += len(of_programs)
            elif of_programs:
                self._add(self._program_worker(stages_kept).run(of_programs, part))

    def _record_failure(self, row: Row, error: OellmError) -> None:
        """Record the failure of a row whose framework cannot tell its stages."""
        options = self._options
        contents = RowContents(options.accepted, self._sinks.log)
        ledger = RowLedger(self._assignment.store, self._sinks, contents)
        job = Job(row, RowTiming(), options.provenance, bootstrap_iters=options.bootstrap_iters)
        label = f"{row['model_path']} {row['task_path']}"
        failure = RowFailure.from_error(error)
        ledger.record_failure(label, job, failure, started=display.utc_now())
        self._add(ledger.counts)

    @property
    def _is_over(self) -> bool:
        return self._signals.first is not None or self.counts.halt is not None

    def _program_worker(self, stages: StageStore) -> ProgramWorker:
        directory = self._assignment.directory or Path(tempfile.gettempdir())
        starter = ProgramStarter(
            self._assignment.cluster(),
            stages,
            directory,
            unsafe_execution=self._assignment.permits_unsafe_execution,
        )
        return ProgramWorker(
            Stores(self._assignment.store, stages),
            self._sinks,
            self._signals,
            options=self._options,
            starter=starter,
        )

    @contextlib.contextmanager
    def _stage_store(self) -> Iterator[StageStore]:
        """Return where the outputs of first stages are kept: with results, else only for now."""
        if (directory := self._assignment.directory) is not None:
            yield StageStore(directory)
        else:
            with tempfile.TemporaryDirectory(prefix="oellm-stages-") as temporary:
                yield StageStore(Path(temporary))

    def _add(self, counts: RowCounts) -> None:
        """Add the counts of a worker."""
        mine = self.counts
        for name in (*_COUNTS, "kept_bytes"):
            setattr(mine, name, getattr(mine, name) + getattr(counts, name))
        mine.halt = mine.halt or counts.halt


def _is_due(row: Row, stages: StageStore) -> bool:
    """Return whether programs have something to compute for a row: a model has answered it."""
    staged = resident_stage(row)
    return staged is None or stages.valid(staged.key, staged.stage.name) is not None
