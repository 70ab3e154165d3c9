"""The worker for stages that programs compute: starts one after the other, and keeps what is valid.

Like the worker whose models are resident, it computes nothing twice, records failures of rows and
not those of the machine, and ends soon after a signal, leaving no processes and no halves.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterable, Mapping

from oellm.core import display
from oellm.core.processes.stop_signals import StopSignals
from oellm.errors import MachineError
from oellm.frameworks.added_program import AdapterError
from oellm.frameworks.program import InvalidOutputError, UnfinishedOutputError
from oellm.manifest.rows import Row
from oellm.runs import provenance
from oellm.runs.contents import Contents
from oellm.runs.heartbeat import RowAtWork, RowPhase, WorkerState
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_store import InvalidStageError, StageOutput
from oellm.worker import halts, time_limit
from oellm.worker.halts import Halt
from oellm.worker.programs.attempts import EndedProgram, ProgramStarter
from oellm.worker.programs.kept_outputs import KeptOutputs, UnreadableError
from oellm.worker.programs.model_sources import ModelSources
from oellm.worker.programs.program_failures import describe_failure
from oellm.worker.programs.program_gpus import ProgramGpus, find_gpus
from oellm.worker.programs.program_records import Origin, ProgramRecorder, find_invalid
from oellm.worker.programs.running_program import ProgramWatch, StoppedProgramError
from oellm.worker.programs.stage_batch import (
    NUMBERS,
    DueStage,
    Part,
    StageBatch,
    make_batches,
    stage_row,
)
from oellm.worker.programs.starts import Resources
from oellm.worker.row_contents import ContentsChangedError, RowContents, require_same
from oellm.worker.row_ledger import RowCounts, RowLedger, Sinks, Stores
from oellm.worker.row_record import Job, RowFailure, UnwritableError
from oellm.worker.row_scheduler import RunOptions
from oellm.worker.time_limit import RowLimit

Jobs = Mapping[str, Job]


class ProgramWorker:
    """Evaluates rows, or computes one stage of them, by programs."""

    def __init__(
        self,
        stores: Stores,
        sinks: Sinks,
        signals: StopSignals,
        *,
        options: RunOptions,
        starter: ProgramStarter,
    ) -> None:
        self._stores = stores
        self._sinks = sinks
        self._options = options
        self._starter = starter
        self._contents = RowContents(options.accepted, sinks.log)
        self._outputs = KeptOutputs(stores.stages, self._contents, sinks.log)
        self._ledger = RowLedger(stores.results, sinks, self._contents)
        self._models = ModelSources(options.stage_dir, sinks)
        self._part = Part.ALL
        self._gpus = ProgramGpus(options.gpus, sinks.log)
        self._booked = RowTiming(start_s=options.start_s)
        # The rows that have not ended in this worker, by eval_id.
        self._open: dict[str, Row] = {}
        # The rows, by eval_id, that the program which has just ended had not come to.
        self._unfinished: set[str] = set()
        self._total = 0
        self._at_work: tuple[RowAtWork, ...] = ()
        self._scoring_s = 0.0
        self._generated = 0
        heartbeat = sinks.heartbeat
        self._watch = ProgramWatch(
            signals,
            options.notice_s,
            options.script,
            beat=self._beat,
            seconds_until_beat=heartbeat.seconds_until_due if heartbeat else lambda: math.inf,
        )

    def run(self, rows: Iterable[Row], part: Part) -> RowCounts:
        """Compute the stages of rows that programs compute; what others compute must be there."""
        self._part = part
        self._open = {row["eval_id"]: row for row in rows}
        self._total = len(self._open)
        if self._stores.results is not None:
            self._stores.results.recover(set(self._open))
        for row in list(self._open.values()):
            self._skip_if_done(row)
        try:
            for number in NUMBERS[part]:
                if not self._must_end():
                    self._compute_stage(number)
        except UnreadableError as error:
            self._ledger.note_halt(Halt(str(error)))
        finally:
            self._models.release()
        counts = self._ledger.counts
        counts.left = len(self._open)
        if not counts.left:
            # What the machine lacked, no row has missed.
            counts.halt = None
        self._at_work = ()
        self._beat(self._describe_end() if counts.left else "finished")
        return counts

    def _skip_if_done(self, row: Row) -> bool:
        """Note that a row has a result; return whether it has."""
        if (result := self._ledger.stored_result(row)) is None:
            return False
        self._ledger.skip(result)
        del self._open[row["eval_id"]]
        return True

    def _compute_stage(self, number: int) -> None:
        rows = list(self._open.values())
        staged = [found for row in rows if (found := stage_row(row, number)) is not None]
        waiting = [each for each in staged if self._is_due(each)]
        asking = [each.row for each in waiting if each.stage.uses_gpu]
        if asking and (halt := self._gpus.check(asking)) is not None:
            self._ledger.note_halt(halt)
        batches = deque(make_batches(waiting))
        while batches and not self._must_end():
            batch = batches.popleft()
            self._unfinished.clear()
            self._compute(batch)
            if (rest := batch.only(self._unfinished)).staged:
                batches.appendleft(rest)

    def _must_end(self) -> bool:
        """Return whether the worker was told to stop, or can compute nothing more here."""
        return self._watch.is_stopping() or self._ledger.counts.halt is not None

    def _is_due(self, staged: DueStage) -> bool:
        """Return whether a stage of a row is to be computed."""
        if staged.is_first:
            if staged.is_last or self._outputs.find(staged) is None:
                return True
            self._note_ready(staged)
            return False
        try:
            self._outputs.require(staged)
        except InvalidStageError as error:
            self._leave_out(staged, error)
            return False
        return True

    def _leave_out(self, staged: DueStage, reason: InvalidStageError) -> None:
        """Leave out a row without a first output; its first stage has recorded why."""
        self._sinks.log(f"{staged.label} left out: {reason}")
        self._ledger.counts.without_input += 1
        del self._open[staged.row["eval_id"]]

    def _note_ready(self, staged: DueStage, *, is_new: bool = False) -> None:
        """Note that a row's first stage has its output, and whether this worker has computed it."""
        self._generated += is_new
        if self._part == Part.FIRST:
            self._ledger.counts.generated += is_new
            self._ledger.counts.ready += not is_new
            del self._open[staged.row["eval_id"]]

    def _compute(self, batch: StageBatch) -> None:
        """Compute a batch, except for what another worker has computed, or what has changed."""
        jobs: dict[str, Job] = {}
        inputs: dict[str, StageOutput] = {}
        for each in batch.staged:
            if (job := self._begin(each, inputs)) is not None:
                jobs[each.row["eval_id"]] = job
        if not jobs:
            return
        batch = batch.only(jobs)
        started = display.utc_now()
        self._show(batch, RowPhase.SCORING, started)
        self._sinks.log(f"{batch.label}: {batch.name} begins")
        try:
            self._run(batch, jobs, inputs)
        except StoppedProgramError:
            pass
        except UnwritableError as error:
            self._ledger.note_halt(Halt(str(error)))
        except MachineError as error:
            self._ledger.note_halt(Halt(str(error), is_unusable=True))
        # An adapter may raise anything.
        except Exception as error:
            failure = describe_failure(error, batch.stage_name, self._limit(batch).seconds)
            for each in batch.staged:
                self._fail(each, jobs, failure, started=started)
        self._at_work = ()
        self._beat()

    def _begin(self, staged: DueStage, inputs: dict[str, StageOutput]) -> Job | None:
        """Return what is known of a row in advance; None if it ends here.

        Adds the output that the stage reads to `inputs`.
        """
        row = staged.row
        if self._skip_if_done(row):
            # Another worker, which has the same row, was faster.
            return None
        if staged.is_first and not self._is_due(staged):
            return None
        expected = self._contents.expect(row)
        job = Job(
            row,
            booked=self._booked,
            provenance=self._options.provenance,
            bootstrap_iters=self._options.bootstrap_iters,
            expected=expected,
        )
        try:
            if staged.is_first:
                return job._replace(contents=self._require_unchanged(staged))
            inputs[staged.key] = given = self._outputs.require(staged)
            known = given.record.contents
            known = self._contents.as_task_of(known, staged.generation, row)
            # Of a state that the run accepts, perhaps of an earlier one that it keeps.
            return job._replace(contents=known, expected=known)
        except InvalidStageError as error:
            self._leave_out(staged, error)
            return None
        except (ContentsChangedError, AdapterError) as error:
            failure = describe_failure(error, staged.stage_name, 0.0)
            self._fail(staged, {row["eval_id"]: job}, failure, started=display.utc_now())
            return None

    def _require_unchanged(self, staged: DueStage) -> Contents:
        """Return what a row is evaluated from; raises ContentsChangedError."""
        now = self._contents.require_unchanged(staged.row)
        found = self._starter.needs.cached_data(staged)
        require_same(Contents(data=self._contents.expect(staged.row).data), found, staged.row)
        return now

    def _run(self, batch: StageBatch, jobs: Jobs, inputs: Mapping[str, StageOutput]) -> None:
        """Run the program of a batch, and keep what it has computed."""
        if batch.obstacle is not None:
            raise batch.obstacle
        uses_gpu, limit = batch.first.stage.uses_gpu, self._limit(batch)
        resources = Resources(
            gpus=self._gpus.count(batch.first.row) if uses_gpu else 0,
            source=self._models.find_source(batch.first.row) if uses_gpu else None,
            bootstrap_iters=self._options.bootstrap_iters,
            limit_s=limit.seconds,
        )
        run = functools.partial(self._watch.run, limit=limit)
        with self._starter.attempt(batch, inputs, resources, run=run) as attempt:
            self._booked = RowTiming()
            self._scoring_s += attempt.seconds if uses_gpu else 0.0
            self._show(batch, RowPhase.FINISHING, attempt.started)
            if batch.first.is_last:
                for each in batch.staged:
                    self._write_result(each, jobs, attempt, given=inputs.get(each.key))
            else:
                self._place_outputs(batch, jobs, attempt)
        if len(self._unfinished) == len(batch.staged) and not self._watch.is_stopping():
            self._unfinished.clear()
            raise InvalidOutputError("the program ended well, but has come to none of its rows")

    def _write_result(
        self, staged: DueStage, jobs: Jobs, attempt: EndedProgram, *, given: StageOutput | None
    ) -> None:
        job = jobs[staged.row["eval_id"]]
        try:
            if staged.is_first:
                self._require_unchanged(staged)
            ended = self._recorder.write_result(staged, job, attempt, given=given)
        except UnwritableError:
            raise
        except UnfinishedOutputError:
            self._unfinished.add(staged.row["eval_id"])
        except Exception as error:
            failure = describe_failure(error, staged.stage_name, 0.0)
            self._fail(staged, jobs, failure, started=attempt.started)
        else:
            self._ledger.note_end(staged.label, ended)
            del self._open[staged.row["eval_id"]]

    def _place_outputs(self, batch: StageBatch, jobs: Jobs, attempt: EndedProgram) -> None:
        wrong = find_invalid(batch, attempt.output)
        contents: dict[str, Contents] = {}
        for each in batch.staged:
            error = wrong[each.key] or self._find_change(each)
            if isinstance(error, UnfinishedOutputError):
                self._unfinished.add(each.row["eval_id"])
            elif error is not None:
                failure = describe_failure(error, each.stage_name, 0.0)
                self._fail(each, jobs, failure, started=attempt.started)
            else:
                job = jobs[each.row["eval_id"]]
                known = job.contents.filled(job.expected)
                known = self._contents.as_task_of(known, each.row, each.generation)
                contents[each.key] = known
        try:
            self._recorder.place_outputs(batch, attempt, contents)
        except OSError as error:
            raise UnwritableError(halts.describe_storage(error)) from error
        for each in batch.staged:
            if each.key in contents:
                self._sinks.log(f"{each.label} {batch.name} done in {attempt.seconds:.1f} s")
                self._note_ready(each, is_new=True)

    def _find_change(self, staged: DueStage) -> Exception | None:
        """Return how a row's model or task has changed while its program ran; None if not."""
        try:
            self._require_unchanged(staged)
        except (ContentsChangedError, AdapterError) as error:
            return error
        return None

    def _fail(self, staged: DueStage, jobs: Jobs, failure: RowFailure, *, started: str) -> None:
        """Record the failure of a row, unless another worker has computed the stage by now."""
        row = staged.row
        if row["eval_id"] not in self._open or self._skip_if_done(row):
            return
        if staged.is_first and not staged.is_last and self._outputs.find(staged) is not None:
            self._note_ready(staged)
            return
        self._ledger.record_failure(staged.label, jobs[row["eval_id"]], failure, started=started)
        if self._ledger.counts.halt is None:
            del self._open[row["eval_id"]]

    def _limit(self, batch: StageBatch) -> RowLimit:
        """Return how long the program of a batch may take: as long as its rows together."""
        default = self._options.row_limit
        limits = [time_limit.find_limit(row, default) for row in batch.subjects]
        # What prints in a sandbox may be the model's code, so printing is no progress there.
        is_trusted = not batch.first.stage.runs_model_code
        is_estimate = is_trusted and all(limit.is_estimate for limit in limits)
        return RowLimit(sum(limit.seconds for limit in limits), is_estimate)

    @functools.cached_property
    def _recorder(self) -> ProgramRecorder:
        accelerator = find_gpus(self._gpus.number)
        origin = Origin(
            provenance=self._options.provenance,
            accelerator=accelerator,
            hardware=provenance.describe_devices(accelerator),
        )
        return ProgramRecorder(self._stores.results, self._stores.stages, origin)

    def _describe_end(self) -> str:
        if (halt := self._ledger.counts.halt) is None:
            return self._watch.stopper.describe()
        return "stopped: its node is unusable" if halt.is_unusable else f"stopped: {halt.reason}"

    def _show(self, batch: StageBatch, phase: RowPhase, started: str) -> None:
        """Let heartbeats show what is done with a batch."""
        self._at_work = tuple(
            RowAtWork(each.row["eval_id"], phase, started, stage=each.stage_name)
            for each in batch.staged
        )
        self._beat()

    def _beat(self, ended: str = "") -> None:
        if self._sinks.heartbeat is None:
            return
        counts = self._ledger.counts
        halt = counts.halt
        self._sinks.heartbeat.beat(
            WorkerState(
                total=self._total,
                skipped=counts.skipped,
                done=counts.done,
                failed=counts.failed,
                generated=self._generated,
                rows=self._at_work,
                loading="",
                scoring_s=round(self._scoring_s, 3),
                ended=ended,
                unusable=halt.reason if ended and halt is not None and halt.is_unusable else "",
            )
        )
