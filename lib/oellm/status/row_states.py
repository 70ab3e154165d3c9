"""The state of a row: in each of its stages, if it has two, and the one that counts for the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from oellm.frameworks.stages import EVALUATE, GENERATE
from oellm.manifest.rows import Row
from oellm.runs.heartbeat import Heartbeat, RowAtWork, RowPhase
from oellm.runs.result_store import RecordedFailure
from oellm.slurm import job_ends
from oellm.status.statuses import (
    SILENT_S,
    EvalState,
    Evidence,
    RowStatus,
    ShardActivity,
    ShardPhase,
)

# What a row does whose stage of two is computed.
_WORK = {GENERATE: "generating", EVALUATE: "evaluating"}


class StageStates(NamedTuple):
    """The states of a row's stages: of the only one, or of the first and the second.

    Attributes:
        first: The first stage, as the shard of the row has it.
        second: The second stage, as the shard that computes it has it; None if there is none.
    """

    first: RowStatus
    second: RowStatus | None = None

    @property
    def current(self) -> RowStatus:
        """The state of the row: that of the first stage that is not done, else of the last."""
        is_over = self.second is not None and self.first.state is EvalState.DONE
        return self.second if self.second is not None and is_over else self.first


def find_states(
    row: Row, activities: Mapping[int, ShardActivity], evidence: Evidence
) -> StageStates:
    """Return the states of a row, whose shards do what `activities` says."""
    first = activities[int(row["shard"])]
    if not row["evaluate_shard"]:
        return StageStates(_stage_status(row, "", first, evidence=evidence))
    second = activities[int(row["evaluate_shard"])]
    eval_id = row["eval_id"]
    is_generated = eval_id in evidence.done or eval_id in evidence.generated
    if is_generated or _find_work(eval_id, second) is not None:
        generation = RowStatus(row, EvalState.DONE, "", shard=first, stage=GENERATE)
        return StageStates(generation, _stage_status(row, EVALUATE, second, evidence=evidence))
    generation = _stage_status(row, GENERATE, first, evidence=evidence)
    return StageStates(generation, _without_output(row, generation.state, second))


def _without_output(row: Row, generation: EvalState, activity: ShardActivity) -> RowStatus:
    """Return the state of the second stage of a row whose first one has no output."""
    open_states = (EvalState.RUNNING, EvalState.PENDING, EvalState.NOT_SUBMITTED)
    if generation not in open_states:
        state, reason = generation, "its first stage has no output"
    elif activity.phase is ShardPhase.UNSUBMITTED:
        state, reason = EvalState.NOT_SUBMITTED, activity.reason
    elif activity.phase is ShardPhase.QUEUED:
        state, reason = EvalState.PENDING, activity.reason
    else:
        is_waiting = generation is EvalState.NOT_SUBMITTED
        state = generation if is_waiting else EvalState.PENDING
        reason = "waits for its first stage"
    return RowStatus(row, state, reason, shard=activity, stage=EVALUATE)


def _stage_status(
    row: Row, stage: str, activity: ShardActivity, *, evidence: Evidence
) -> RowStatus:
    """Return the state of a stage whose input is there; `stage` is empty if it is the only one."""
    eval_id = row["eval_id"]
    if eval_id in evidence.done:
        remarks = evidence.remarks.get(eval_id, "")
        return RowStatus(row, EvalState.DONE, remarks, shard=activity, stage=stage)
    if stale := _describe_stale(eval_id, stage, activity, evidence=evidence):
        return RowStatus(row, EvalState.NOT_SUBMITTED, stale, shard=activity, stage=stage)
    failure = evidence.failures.get(eval_id)
    if failure is not None and failure.stage and failure.stage != stage:
        failure = None
    state, reason, at_work = _find_state(eval_id, failure, activity, evidence=evidence)
    has_ended = state in (EvalState.LOST, EvalState.CANCELLED)
    log = failure.log if failure is not None else ""
    return RowStatus(
        row=row,
        state=state,
        reason=reason,
        shard=activity,
        stage=stage,
        attempts=failure.attempts if failure is not None else 0,
        log=(activity.log or log) if has_ended else log,
        at_work=at_work,
        last_line=activity.last_line if has_ended else "",
    )


def _describe_stale(
    eval_id: str, stage: str, activity: ShardActivity, *, evidence: Evidence
) -> str:
    """Return that what a stage has computed is out of date; empty if it is not."""
    if stage == GENERATE:
        if _find_work(eval_id, activity) is not None:
            return ""
        if changes := evidence.stale_outputs.get(eval_id):
            return f"stale: {changes}; oe-submit generates it again"
    changes = evidence.stale.get(eval_id)
    return f"stale: {changes}; oe-submit evaluates it again" if changes else ""


def _find_state(
    eval_id: str, failure: RecordedFailure | None, activity: ShardActivity, *, evidence: Evidence
) -> tuple[EvalState, str, RowAtWork | None]:
    """Return the state of a row without a result, with the reason, and what its worker says."""
    if (work := _find_work(eval_id, activity)) is not None:
        at_work, heartbeat = work
        doing = _describe_work(at_work, heartbeat, silence_s=evidence.silence_s(heartbeat))
        return EvalState.RUNNING, doing, at_work
    why = f"{failure.error}: {failure.message}" if failure is not None else ""
    if failure is not None and (activity.since is None or failure.finished >= activity.since):
        if activity.reason == job_ends.OUT_OF_MEMORY:
            why += f"; {activity.reason}"
        return EvalState.FAILED, why, None
    if activity.phase is ShardPhase.ENDED:
        state = EvalState.CANCELLED if activity.is_cancelled else EvalState.LOST
        return state, activity.reason, None
    is_submitted = activity.phase is not ShardPhase.UNSUBMITTED
    state = EvalState.PENDING if is_submitted else EvalState.NOT_SUBMITTED
    reason = activity.reason or "in a running job, not started"
    return state, f"{reason}; before: {why}" if why else reason, None


def _find_work(eval_id: str, activity: ShardActivity) -> tuple[RowAtWork, Heartbeat] | None:
    """Return what the worker of a shard says of a row that it has begun; None if it has not."""
    if (heartbeat := activity.heartbeat) is None:
        return None
    rows = (row for row in heartbeat.state.rows if row.eval_id == eval_id)
    at_work = next(rows, None)
    return None if at_work is None else (at_work, heartbeat)


def _describe_work(at_work: RowAtWork, heartbeat: Heartbeat, *, silence_s: float) -> str:
    if silence_s > SILENT_S:
        return f"no heartbeat for {silence_s:.0f} s"
    if at_work.phase is RowPhase.WAITING and heartbeat.state.loading:
        return "its model is being loaded"
    is_scoring = at_work.phase is RowPhase.SCORING
    return _WORK.get(at_work.stage, at_work.phase.value) if is_scoring else at_work.phase.value
