"""The record of a row: how it ended, how long it took, and where; written as a file and a line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core.display import utc_now
from oellm.frameworks.interface import Evaluation, Generation
from oellm.frameworks.stages import GENERATE
from oellm.manifest.rows import Row
from oellm.runs import answers, frozen_worker, result_file
from oellm.runs.contents import Contents
from oellm.runs.result_file import KEY, InvalidResultError, Result, check_result
from oellm.runs.result_record import Facts, FailureRecord, ResultRecord, RowTiming
from oellm.runs.result_store import ResultStore, WrittenResult
from oellm.runs.run_directory import ANSWERS
from oellm.runs.stages.stage_record import StageRecord
from oellm.runs.stages.stage_store import StageStore
from oellm.worker import halts
from oellm.worker.row_contents import require_same


class Job(NamedTuple):
    """A row to evaluate, with what this worker knows in advance.

    Attributes:
        row: The row.
        booked: Seconds spent before the row that count as its own, by step.
        provenance: The part of the provenance that all rows of the worker share.
        bootstrap_iters: Draws for bootstrapped standard errors.
        expected: What the row must be evaluated from, as far as that is known.
        contents: What it is evaluated from, as far as the worker knows.
        key: The KEY of its first output, if the first of two stages is computed; else empty.
    """

    row: Row
    booked: RowTiming
    provenance: Facts
    bootstrap_iters: int
    expected: Contents = Contents()
    contents: Contents = Contents()
    key: str = ""

    @property
    def stage(self) -> str:
        """The stage, for records; empty if the row has one."""
        return GENERATE if self.key else ""


class Ended(NamedTuple):
    """A row has its result, the output of its first stage, or its failure.

    Attributes:
        is_done: Whether the row has a result.
        line: The record, as the line for stdout; empty for the output of a first stage.
        summary: How the row ended, for the user.
        remarks: What the user should know about the result.
    """

    is_done: bool
    line: bytes
    summary: str
    remarks: list[str]

    @property
    def is_generated(self) -> bool:
        """Whether the row has the output of its first stage, which this worker does not score."""
        return not self.line


class UnwritableError(Exception):
    """A result or failure cannot be written; the text says which file, and why."""


class RowFailure(NamedTuple):
    """Why a row has no score; the error may have occurred in another process.

    Attributes:
        kind: The class of the error.
        message: Its text.
        traceback: Where it occurred; empty if unknown.
        full_disk: The file that a full disk did not take; empty if the error has another cause.
        stage: The stage in which it occurred; empty if the row has one.
    """

    kind: str
    message: str
    traceback: str = ""
    full_disk: str = ""
    stage: str = ""

    @classmethod
    def from_error(cls, error: BaseException) -> RowFailure:
        """Describe an error."""
        if isinstance(error, FailedElsewhereError):
            return error.failure
        text = "".join(traceback.format_exception(error))
        full_disk = halts.describe_full_disk(error)
        return cls(type(error).__name__, str(error), text, full_disk=full_disk)

    def __str__(self) -> str:
        where = f"{self.stage}: " if self.stage else ""
        return f"{where}{self.kind}: {self.message}"


class FailedElsewhereError(Exception):
    """An error of another process."""

    def __init__(self, failure: RowFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class RowRecorder:
    """Writes the result or the failure of one row.

    Attributes:
        timing: Seconds by step; more are added until the row ends.
    """

    def __init__(self, job: Job, store: ResultStore | None, started: str) -> None:
        self._job = job
        self._store = store
        self.timing = dataclasses.replace(job.booked, started=started)

    def write_result(self, evaluation: Evaluation) -> Ended:
        """Write the result.

        Raises ValueError if it is not valid, ContentsChangedError if it was computed from something
        else than expected, and UnwritableError if it cannot be written.
        """
        contents = self._known_contents(evaluation.contents, evaluation.provenance)
        require_same(self._job.expected, contents, self._job.row)
        provenance = self._shared_provenance(evaluation.provenance)
        self.timing.finished = utc_now()
        record = ResultRecord.of_scores(
            self._job.row,
            self.timing,
            provenance,
            metrics=[score.to_json() for score in evaluation.scores],
            remarks=evaluation.remarks,
            usage=evaluation.usage,
            contents=contents,
            environment=evaluation.environment,
            tasks=evaluation.tasks,
        )
        result: Result = {**evaluation.native, KEY: record.content}
        try:
            check_result(result)
        except InvalidResultError as error:
            raise ValueError(f"the result is not valid: {error}") from None
        remarks = list(evaluation.remarks)
        with _writing():
            written = self._store_result(result, evaluation)
        if not written.is_ours:
            remarks.append("another worker was faster; its result stays")
        seconds = (self.timing.row_s or 0.0) - (self.timing.wait_s or 0.0)
        summary = f"done in {seconds:.1f} s: {_headline(evaluation, self._job.row)}"
        line = result_file.one_line(written.content)
        return Ended(is_done=True, line=line, summary=summary, remarks=remarks)

    def write_output(self, generation: Generation, attempt: Path, stages: StageStore) -> Ended:
        """Give the output of a first stage, in the directory of an attempt, its name.

        Raises ContentsChangedError if it was computed from something else than expected, and
        UnwritableError if it cannot be written.
        """
        contents = self._known_contents(generation.contents, generation.provenance)
        require_same(self._job.expected, contents, self._job.row)
        self.timing.finished = utc_now()
        self.timing.generate_s = (self.timing.row_s or 0.0) - (self.timing.wait_s or 0.0)
        record = StageRecord(
            key=self._job.key,
            stage=GENERATE,
            row=dict(self._job.row.cells),
            contents=contents,
            environment=generation.environment,
            provenance={**self._shared_provenance(generation.provenance), **_usage(generation)},
            timing=self.timing,
            files={},
        )
        with _writing():
            stages.place(attempt, record)
        if self._store is not None:
            answers.remove_answers(self._store.directory / ANSWERS, self._job.row["eval_id"])
        summary = f"generated in {self.timing.generate_s:.1f} s; its second stage scores it"
        return Ended(is_done=False, line=b"", summary=summary, remarks=[])

    def write_failure(self, failure: RowFailure) -> Ended:
        """Write the failure file; raises UnwritableError if that is impossible."""
        self.timing.finished = utc_now()
        described = FailureRecord(
            error=failure.kind,
            message=failure.message,
            traceback=failure.traceback,
            attempts=1,
            log=_log_file(),
            stage=failure.stage,
        )
        record = ResultRecord.of_failure(
            self._job.row, self.timing, self._job.provenance, failure=described
        )
        result: Result = {KEY: record.content}
        if self._store is not None:
            with _writing():
                content = self._store.write_failure(result)
        else:
            content = result_file.encode_result(result)
        line = result_file.one_line(content)
        return Ended(is_done=False, line=line, summary=f"failed: {failure}", remarks=[])

    def _shared_provenance(self, own: Facts) -> dict[str, Any]:
        """Return the provenance of a row with what all rows of the worker share."""
        shared = self._job.provenance
        provenance = {**shared, **own}
        provenance["versions"] = {**shared["versions"], **provenance["versions"]}
        return provenance

    def _known_contents(self, found: Contents, provenance: Facts) -> Contents:
        """Return what scores or answers were computed from."""
        contents = found.filled(self._job.contents)
        # A digest of tokenizers and adapters alone begins with a plus.
        if contents.model and not contents.model.startswith("+"):
            return contents
        model = provenance.get("model")
        commit = model.get("commit") if isinstance(model, dict) else None
        return contents._replace(model=f"{commit or ''}{contents.model}")

    def _store_result(self, result: Result, evaluation: Evaluation) -> WrittenResult:
        """Store the result, unless another worker stored one before."""
        if self._store is None:
            return WrittenResult(is_ours=True, content=result_file.encode_result(result))
        samples = evaluation.samples if self._job.row.value("log_samples") else None
        written = self._store.write_result(result, samples)
        answers.remove_answers(self._store.directory / ANSWERS, self._job.row["eval_id"])
        return written


def _usage(generation: Generation) -> Facts:
    return {"usage": generation.usage.to_json()}


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnwritableError(halts.describe_storage(error)) from error


def _headline(evaluation: Evaluation, row: Row) -> str:
    """Return the row's main score: the task's primary metric, or its first if none is known."""
    scores = evaluation.scores
    if not scores:
        return "no metrics"
    # A group's own scores stand among those of its members.
    own = [score for score in scores if score.task == row["task_path"]] or scores
    of_tasks = frozen_worker.primary_metrics().get(row.typed.eval_suite, {})
    metric = row["primary_metric"] or of_tasks.get(own[0].task) or of_tasks.get(row["task_path"])
    chosen = next((score for score in own if score.metric == metric), own[0])
    return f"{chosen.metric} {chosen.value:.4f}"


def _log_file() -> str:
    """Return the file that stderr goes to, which is the log of the job; empty if it is no file."""
    try:
        path = os.readlink(f"/proc/self/fd/{sys.stderr.fileno()}")
    except (OSError, ValueError):
        return ""
    return path if os.path.isfile(path) else ""
