"""What has become of a worker's rows: results that were there, new ones, failures, the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from oellm.core import json_codec
from oellm.core.log import Log
from oellm.manifest.rows import Row
from oellm.runs import answers
from oellm.runs.heartbeat import HeartbeatWriter
from oellm.runs.result_file import Result, read_record
from oellm.runs.result_record import ResultRecord
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import ANSWERS
from oellm.runs.stages.stage_store import StageStore
from oellm.worker.halts import Halt
from oellm.worker.row_contents import RowContents
from oellm.worker.row_record import Ended, Job, RowFailure, RowRecorder, UnwritableError


@dataclass
class RowCounts:
    """How rows ended.

    Attributes:
        done: Rows with a new result.
        skipped: Rows that had a result before.
        failed: Rows that failed.
        generated: Rows whose first stage of two this worker has computed, and which it does not
            evaluate.
        ready: The same for rows whose first stage had its output before.
        without_input: Rows without a second stage, because their first stage has no output.
        left: Rows that were not evaluated because of a signal.
        kept_bytes: The size of the answers that were added on disk for the rows that are left.
        halt: Why the worker has ended before all rows were evaluated; None if it has not, or if a
            signal stopped it.
    """

    done: int = 0
    skipped: int = 0
    failed: int = 0
    generated: int = 0
    ready: int = 0
    without_input: int = 0
    left: int = 0
    kept_bytes: int = 0
    halt: Halt | None = None


class Sinks(NamedTuple):
    """Where a worker writes what happens.

    Attributes:
        emit: Gets the record of each row, as JSON on one line, when the row ends.
        log: Gets messages for the user.
        status: Shows a line on the terminal; None if there is no terminal.
        heartbeat: Gets the present state of the worker; None outside of a run.
    """

    emit: Callable[[bytes], None]
    log: Log
    status: Log | None
    heartbeat: HeartbeatWriter | None = None


class Stores(NamedTuple):
    """Where a worker writes: results and failures, unless None, and outputs of first stages."""

    results: ResultStore | None
    stages: StageStore


class RowLedger:
    """Writes down how rows end.

    `store` keeps results and failures; without one they are only emitted.

    Attributes:
        store: The store.
        counts: How rows ended so far.
    """

    def __init__(self, store: ResultStore | None, sinks: Sinks, contents: RowContents) -> None:
        self.store = store
        self.counts = RowCounts()
        self._sinks = sinks
        self._contents = contents

    def stored_result(self, row: Row) -> Result | None:
        """Return the valid result of a row that fits; sets others aside, and says so."""
        if self.store is None:
            return None
        result = self.store.valid_result(row["eval_id"])
        if result is not None and self._has_set_aside(row, read_record(result)):
            return None
        if result is None and (aside := self.store.set_aside(row["eval_id"])) is not None:
            self._sinks.log(f"invalid result set aside: {aside}")
        return result

    def skip(self, result: Result) -> None:
        """Note that a row has a result that is not ours."""
        self.counts.skipped += 1
        if self.store is not None:
            # A worker may have been killed right after it wrote the result.
            answers.remove_answers(self.store.directory / ANSWERS, read_record(result).eval_id)
        self._sinks.emit(json_codec.dumps(result))

    def record_failure(self, label: str, job: Job, failure: RowFailure, *, started: str) -> None:
        """Record the failure of a row whose own process cannot do it."""
        try:
            if failure.full_disk:
                raise UnwritableError(failure.full_disk)
            ended = RowRecorder(job, self.store, started).write_failure(failure)
        except UnwritableError as error:
            self.note_halt(Halt(str(error)))
        else:
            self.note_end(label, ended)

    def note_end(self, label: str, ended: Ended) -> None:
        """Note that a row has its result or its failure."""
        if ended.is_done:
            self.counts.done += 1
        elif ended.is_generated:
            self.counts.generated += 1
        else:
            self.counts.failed += 1
        self._sinks.log(f"{label} {ended.summary}")
        for remark in ended.remarks:
            self._sinks.log(f"{label}: {remark}")
        if not ended.is_generated:
            self._sinks.emit(ended.line)

    def note_halt(self, halt: Halt) -> None:
        """Note why nothing more can be evaluated; the first reason counts."""
        self.counts.halt = self.counts.halt or halt

    def _has_set_aside(self, row: Row, record: ResultRecord) -> bool:
        """Set the result of a row aside if it is out of date; return whether it was."""
        assert self.store is not None
        staleness = self._contents.find_staleness(row, record)
        if staleness is None:
            return False
        aside = self.store.set_stale_aside(row["eval_id"], record.finished)
        if aside is not None:
            self._sinks.log(f"{', '.join(staleness.changes)}; earlier result set aside: {aside}")
        return aside is not None
