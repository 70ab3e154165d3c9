"""The states of rows, shards and runs, and the evidence that they are found from."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from oellm.core.text_enum import TextEnum
from oellm.frameworks.stages import EVALUATE
from oellm.manifest.rows import Row
from oellm.runs.heartbeat import Heartbeat, RowAtWork
from oellm.runs.result_store import RecordedFailure
from oellm.runs.run_directory import Run
from oellm.slurm.job_states import ArrayTask, JobState

# Seconds without a heartbeat after which a worker counts as silent.
SILENT_S = 60.0


class EvalState(TextEnum):
    """The state of a row; a shard or a run has the state of its worst row, or RUNNING."""

    DONE = "done"
    RUNNING = "running"
    PENDING = "pending"
    NOT_SUBMITTED = "not submitted"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"

    @property
    def column(self) -> str:
        """The column that counts the rows in this state."""
        return self.name.lower()


class ShardPhase(TextEnum):
    """What happens to a shard."""

    UNSUBMITTED = "unsubmitted"
    QUEUED = "queued"
    RUNNING = "running"
    # Its job is over, but Slurm still cleans up, and does not yet say why it ended.
    ENDING = "ending"
    ENDED = "ended"


def worst_state(counts: Mapping[EvalState, int]) -> EvalState:
    """Return the worst of the states that rows are in."""
    # Open rows come first: nobody knows how they end.
    worst = (
        *(EvalState.PENDING, EvalState.NOT_SUBMITTED),
        *(EvalState.LOST, EvalState.FAILED, EvalState.CANCELLED),
    )
    return next((state for state in worst if counts.get(state)), EvalState.DONE)


class LogEnd(NamedTuple):
    """The end of a log.

    Attributes:
        path: The log.
        text: Its last lines.
        modified: When something was last written to it.
    """

    path: str
    text: str
    modified: datetime.datetime


@dataclass(frozen=True)
class Evidence:
    """What is known of a run at one moment.

    Attributes:
        run: The run directory as it is now.
        now: The moment.
        rows: The rows of the manifest.
        done: The rows with a valid result that is not out of date.
        generated: The other rows with two stages whose first one has an output that is not out of
            date.
        stale: What has changed since the other valid results were computed, by eval_id.
        stale_outputs: What has changed since outputs of first stages were, by eval_id of the row.
        remarks: What is not as asked in results, by eval_id; empty texts are nothing.
        failures: Why other rows have none, by eval_id.
        heartbeats: The newest heartbeat of each shard.
        jobs: What Slurm says; None if it did not answer, or was not asked.
        logs: The ends of the logs of shards whose jobs ended or were requeued, if there are any.
        workers_here: The shards whose workers run on this machine, outside of jobs.
        submitters_here: The process ids of oe-submit on this machine.
    """

    run: Run
    now: datetime.datetime
    rows: Sequence[Row]
    done: frozenset[str]
    generated: frozenset[str]
    stale: Mapping[str, str]
    stale_outputs: Mapping[str, str]
    remarks: Mapping[str, str]
    failures: Mapping[str, RecordedFailure]
    heartbeats: Mapping[int, Heartbeat]
    jobs: Mapping[ArrayTask, JobState] | None
    logs: Mapping[int, LogEnd]
    workers_here: frozenset[int]
    submitters_here: frozenset[int]

    def silence_s(self, heartbeat: Heartbeat) -> float:
        """Return the seconds since a worker wrote its heartbeat."""
        return (self.now - heartbeat.attempt.update_time).total_seconds()

    def log_text(self, shard: int) -> str:
        """Return the last lines of a shard's log, empty if there is none."""
        return self.logs[shard].text if shard in self.logs else ""


@dataclass(frozen=True)
class ShardActivity:
    """What happens to a shard, and where.

    Attributes:
        phase: What happens to it.
        reason: Why, in plain words; empty while it runs.
        since: Failures from before do not count, because their rows are tried again. None: all do.
        job: The Slurm job and array index, empty if it has none.
        node: The node of the job, empty if it has none.
        heartbeat: The heartbeat of the worker that runs.
        last_line: The last line of the log of a job that ended.
        log: That log, empty if there is none.
        is_cancelled: Whether a user took the job out of the queue.
    """

    phase: ShardPhase
    reason: str
    since: datetime.datetime | None
    job: str = ""
    node: str = ""
    heartbeat: Heartbeat | None = None
    last_line: str = ""
    log: str = ""
    is_cancelled: bool = False

    @property
    def text(self) -> str:
        """The reason, with the last line of the log."""
        return join_reason(self.reason, self.last_line)


def join_reason(reason: str, last_line: str) -> str:
    """Return why a job ended and what its log says last, as one text."""
    return f"{reason}: {last_line}" if last_line else reason


@dataclass(frozen=True)
class RowStatus:
    """The state of a row, or of one of its two stages.

    Attributes:
        row: The row of the manifest.
        state: Its state.
        reason: What it does or waits for, why it has no result, or what in it is not as asked.
        shard: What happens to the shard that computes it.
        stage: The stage; empty if the row has one.
        attempts: How often it has failed.
        log: The log of its last failure, or of the job that lost it; empty if there is none.
        at_work: What its worker says of it, None if it is not at work.
        last_line: The last line of the log of the job that lost it.
    """

    row: Row
    state: EvalState
    reason: str
    shard: ShardActivity
    stage: str = ""
    attempts: int = 0
    log: str = ""
    at_work: RowAtWork | None = None
    last_line: str = ""

    @property
    def shard_index(self) -> int:
        """The shard that computes it."""
        return int(self.row["evaluate_shard" if self.stage == EVALUATE else "shard"])

    @property
    def text(self) -> str:
        """The reason, with the last line of the log."""
        return join_reason(self.reason, self.last_line)

    @property
    def share_answered(self) -> float:
        """The share of its requests that the model has answered; 0 if it is not being scored."""
        total = self.at_work.requests_total if self.at_work is not None else 0
        return self.at_work.requests_done / total if self.at_work is not None and total else 0.0


@dataclass(frozen=True)
class ShardStatus:
    """The state of a shard. Times are in seconds, None if they are not known.

    Attributes:
        index: The number of the shard.
        stage: The stage that it computes of rows that have two; empty if there are none.
        rows: Its rows, or their stages.
        activity: What happens to it.
        estimate_s: How long oe-render thought that it takes.
        measured_s: How long its workers took so far.
        scoring_s: How much of that time the model answered.
        gpu_s: The time times the GPUs of each worker.
        rows_per_h: The rows per hour of the worker that runs.
        left_s: How long the shard still takes.
    """

    index: int
    stage: str
    rows: Sequence[RowStatus]
    activity: ShardActivity
    estimate_s: float
    measured_s: float
    scoring_s: float
    gpu_s: float
    rows_per_h: float | None
    left_s: float | None

    def count(self, state: EvalState) -> int:
        """Return the number of rows in a state."""
        return sum(row.state is state for row in self.rows)

    @property
    def state(self) -> EvalState:
        """RUNNING if its worker runs and has rows left, else the state of the worst row."""
        has_rows_left = self.count(EvalState.RUNNING) + self.count(EvalState.PENDING)
        if self.activity.phase is ShardPhase.RUNNING and has_rows_left:
            return EvalState.RUNNING
        return worst_state(Counter(row.state for row in self.rows))


class Totals(NamedTuple):
    """A run in numbers (schema.json, table `totals`).

    Attributes:
        generating: Running rows whose first stage of two is computed.
        generated: Pending rows whose first stage of two has its output.
        evaluating: Running rows whose second stage is computed.
        not_submitted: Rows that wait for oe-submit: they never were in the queue, or what they
            have computed is out of date.
        estimate_s: The estimate of the shards that are done.
        measured_s: The measured time of the shards that are done.
    """

    rows: int
    done: int
    running: int
    pending: int
    not_submitted: int
    failed: int
    lost: int
    cancelled: int
    generating: int
    generated: int
    evaluating: int
    state: EvalState
    rows_per_h: float | None
    left_s: float | None
    gpu_hours: float
    gpu_hours_planned: float | None
    scoring_share: float | None
    estimate_s: float
    measured_s: float

    def number_in(self, state: EvalState) -> int:
        """Return the number of rows in a state."""
        number: int = getattr(self, state.column)
        return number

    @property
    def is_awaited(self) -> bool:
        """Whether something runs or is queued."""
        return self.running + self.pending > 0


class RunStatus(NamedTuple):
    """The state of a run at one moment.

    Attributes:
        run: The run.
        shards: Its shards.
        totals: It in numbers.
        rows: Its rows, in the order of the manifest.
        states: The state of each row, in the order of shards.
    """

    run: Run
    shards: list[ShardStatus]
    totals: Totals
    rows: Sequence[Row]
    states: Sequence[RowStatus]
