"""The join: whatever files, workers and Slurm say, each row is in one state, the right one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.core import schema
from oellm.manifest.rows import Row
from oellm.runs.heartbeat import Heartbeat
from oellm.runs.result_store import RecordedFailure
from oellm.runs.run_directory import Run
from oellm.runs.shard_jobs import newest_jobs
from oellm.slurm.job_states import RUNNING, WAITING, ArrayTask, JobState
from oellm.status.records import describe_row, describe_run, describe_shard
from oellm.status.row_titles import make_titles
from oellm.status.run_status import join_evidence
from oellm.status.statuses import EvalState, Evidence, LogEnd
from support.status_evidence import NOW, ago, make_evidence

ARRAYS = [
    {"script": "a", "eval_suite": "x", "gpus": 1, "workers": 2, "elements": 2, "first_shard": 0},
    {"script": "b", "eval_suite": "y", "gpus": 1, "workers": 1, "elements": 1, "first_shard": 3},
]
# The last element of the first array has one worker only.
PLACES = [(0, 0), (0, 0), (0, 1), (1, 0)]
SHARDS = [
    {"index": n, "array": a, "element": e, "models": 1, "rows": 2, "estimate_s": 60.0}
    for n, (a, e) in enumerate(PLACES)
]


def job(array: int, elements: list[int], job_id: int | None, **more: Any) -> dict[str, Any]:
    entry = {"executor": "slurm", "array": array, "elements": elements, "offset": 0}
    return {**entry, "submitted": ago(600), "job_id": job_id, **more}


def make_run(*jobs: dict[str, Any]) -> Run:
    content = {"arrays": ARRAYS, "shards": SHARDS, "jobs": list(jobs), "plan": {}}
    return Run(Path("/run"), content)


def evidence(run: Run, **known: Any) -> Evidence:
    """Return evidence about two rows per shard (10 and 11 in shard 1), changed by `known`."""
    rows = [
        Row({"eval_id": f"{s}{n}", "shard": str(s), "model_path": "m", "task_path": "t"})
        for s in range(4)
        for n in range(2)
    ]
    return make_evidence(run, rows, **known)


def beat(
    job: str = "7_0",
    updated: float = 5,
    *,
    at_work: bool = True,
    done: int = 0,
    ended: str = "",
    unusable: str = "",
) -> Heartbeat:
    """Return a heartbeat of the worker of shard 1; if it is at work, it scores row 10."""
    attempt = {"job": job, "gpus": 1, "started": ago(100), "updated": ago(updated)}
    row = {"eval_id": "10", "phase": "scoring", "started": ago(50), "requests_per_s": None}
    row |= {"requests_done": 1, "requests_total": 4}
    state = {"total": 2, "skipped": 0, "done": done, "failed": 0, "ended": ended, "loading": ""}
    state["unusable"] = unusable
    facts = {"shard": 1, "host": "n1", "pid": 1, "process_start": 1, "scoring_s": 50.0}
    lists = {"rows": [row] if at_work else [], "attempts": [attempt | {"scoring_s": 50.0}]}
    return Heartbeat.from_json({**facts, **attempt, **state, **lists})


def failure(seconds: float) -> dict[str, RecordedFailure]:
    record = {
        "failure": {"class": "ValueError", "message": "no", "attempts": 2, "log": "/log"},
        "timing": {"finished": ago(seconds)},
    }
    return {"10": RecordedFailure.from_json({"oellm": record})}


def log(text: str, seconds: float = 1) -> dict[int, LogEnd]:
    return {1: LogEnd("/log", text, NOW - datetime.timedelta(seconds=seconds))}


def states(known: Evidence, shard: int = 1) -> list[tuple[str, str]]:
    return [(row.state, row.reason) for row in join_evidence(known).shards[shard].rows]


def slurm(state: str, **more: Any) -> dict[ArrayTask, JobState]:
    return {ArrayTask(7, 0): JobState(state, **more)}


ENDS = {"FAILED", "TIMEOUT", "CANCELLED", "STRANGE"}
SUBMITTED = make_run(job(0, [0], 7))
CANCELLED = make_run(job(0, [0], 7, cancelled=[0], cancelled_by="ada"))


def test_records_have_the_columns_of_the_schema() -> None:
    run = make_run(job(0, [0, 1], 7))
    run.content["created"] = ago(600)
    status = join_evidence(evidence(run))
    shard = status.shards[0]
    records = {
        "status": describe_row(run, shard.rows[0]).to_json(),
        "shard_status": describe_shard(run, shard, make_titles(status.rows)).to_json(),
        "totals": describe_run(status).to_json(),
    }
    for name, record in records.items():
        assert list(record) == list(schema.table(name))


def test_each_worker_has_its_shard_and_the_newest_submission_counts() -> None:
    run = make_run(job(0, [0, 1], 7), job(0, [1], 8, offset=1), job(1, [0], None))
    jobs = newest_jobs(run)
    tasks = [jobs[shard].task for shard in range(4)]
    assert [task and task[:2] for task in tasks] == [(7, 0), (7, 0), (8, 0), None]
    assert [jobs[shard].worker for shard in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("run", "known", "expected"),
    [
        (make_run(), {}, [("not submitted", "not submitted")] * 2),
        (
            make_run(job(0, [0], None)),
            {},
            [("pending", "its submission is not confirmed yet; the next oe-submit looks for it")]
            * 2,
        ),
        (
            SUBMITTED,
            {"jobs": slurm("PENDING", reason="Priority")},
            [("pending", "in the queue (Priority)")] * 2,
        ),
        (
            SUBMITTED,
            {"jobs": slurm("PENDING", reason="launch failed requeued held", restarts=1)},
            [
                (
                    "pending",
                    "held (launch failed requeued held): it waits until scontrol release 7_0, "
                    "requeued: reason unknown",
                )
            ]
            * 2,
        ),
        (
            SUBMITTED,
            {
                "jobs": slurm("PENDING", reason="BeginTime", restarts=1),
                "logs": log("slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO NODE FAILURE ***"),
                "heartbeats": {1: beat()},
                "failures": failure(90),
            },
            [
                (
                    "pending",
                    "in the queue (BeginTime), requeued: its node failed; before: ValueError: no",
                ),
                ("pending", "in the queue (BeginTime), requeued: its node failed"),
            ],
        ),
        (
            SUBMITTED,
            {
                "jobs": slurm("PENDING", reason="BeginTime", restarts=1),
                "logs": log("slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO PREEMPTION ***"),
            },
            [("pending", "in the queue (BeginTime), requeued: its job was preempted")] * 2,
        ),
        (
            SUBMITTED,
            {"jobs": slurm("RUNNING"), "heartbeats": {1: beat()}, "done": frozenset({"11"})},
            [("running", "scoring"), ("done", "")],
        ),
        (
            SUBMITTED,
            {"jobs": slurm("RUNNING"), "heartbeats": {1: beat(updated=300)}},
            [("running", "no heartbeat for 300 s"), ("pending", "in a running job, not started")],
        ),
        # The heartbeat is of an attempt before the job was requeued.
        (
            SUBMITTED,
            {"jobs": slurm("RUNNING", start=NOW), "heartbeats": {1: beat()}},
            [("pending", "in a running job, not started")] * 2,
        ),
        # The heartbeat is of an earlier job.
        (
            SUBMITTED,
            {"jobs": slurm("RUNNING"), "heartbeats": {1: beat("6_0")}},
            [("pending", "in a running job, not started")] * 2,
        ),
        (
            SUBMITTED,
            {
                "jobs": slurm("RUNNING"),
                "heartbeats": {1: beat(at_work=False)},
                "failures": failure(50),
            },
            [("failed", "ValueError: no"), ("pending", "in a running job, not started")],
        ),
        (
            SUBMITTED,
            {
                "jobs": slurm("RUNNING"),
                "heartbeats": {1: beat(at_work=False)},
                "failures": failure(150),
            },
            [
                ("pending", "in a running job, not started; before: ValueError: no"),
                ("pending", "in a running job, not started"),
            ],
        ),
        (
            SUBMITTED,
            {
                "jobs": slurm("OUT_OF_MEMORY"),
                "heartbeats": {1: beat()},
                "failures": failure(50),
            },
            [
                ("failed", "ValueError: no; its job ran out of memory (setting mem)"),
                ("lost", "its job ran out of memory (setting mem)"),
            ],
        ),
        (SUBMITTED, {}, [("lost", "its job is no longer known to Slurm")] * 2),
        (
            SUBMITTED,
            {"jobs": slurm("CANCELLED", cancelled_by="ada"), "heartbeats": {1: beat()}},
            [("cancelled", "its job was cancelled by ada")] * 2,
        ),
        # Slurm still cleans up after a job that was cancelled.
        (
            SUBMITTED,
            {"jobs": slurm("COMPLETING"), "heartbeats": {1: beat()}},
            [("pending", "its job is ending")] * 2,
        ),
        # Slurm has forgotten it, or does not say by whom.
        (
            CANCELLED,
            {},
            [("cancelled", "its job was cancelled by ada")] * 2,
        ),
        (
            CANCELLED,
            {"jobs": slurm("CANCELLED")},
            [("cancelled", "its job was cancelled by ada")] * 2,
        ),
        # Slurm was not asked.
        (CANCELLED, {"jobs": None}, [("cancelled", "its job was cancelled by ada")] * 2),
        (CANCELLED, {"jobs": slurm("TIMEOUT")}, [("lost", "its job reached its time limit")] * 2),
        (
            SUBMITTED,
            {
                "jobs": slurm("FAILED", exit_code=3),
                "heartbeats": {1: beat(at_work=False, unusable="it shows no GPU")},
                "logs": log("oe-run-task: no GPU"),
            },
            [("lost", "its node n1 cannot evaluate it: it shows no GPU")] * 2,
        ),
        (
            make_run(job(0, [0], 99, executor="local")),
            {"logs": log("no such file")},
            [("lost", "its job ended before its worker started")] * 2,
        ),
        (
            make_run(job(0, [0], 99, executor="local")),
            {"logs": log("of an earlier try", 6000)},
            [("lost", "oe-submit ended before it started")] * 2,
        ),
        (
            SUBMITTED,
            {"jobs": None, "heartbeats": {1: beat()}},
            [("running", "scoring"), ("pending", "in a running job, not started")],
        ),
        (
            SUBMITTED,
            {"jobs": None, "heartbeats": {1: beat(updated=300)}},
            [("pending", "submitted as job 7_0; no answer from Slurm")] * 2,
        ),
        (
            make_run(job(0, [0], 99, executor="local")),
            {"heartbeats": {1: beat("")}, "workers_here": frozenset({1})},
            [("running", "scoring"), ("pending", "in a running job, not started")],
        ),
        (
            make_run(job(0, [0], 99, executor="local")),
            {"heartbeats": {1: beat("", ended="stopped by SIGTERM")}},
            [("lost", "its worker was stopped by SIGTERM")] * 2,
        ),
        (
            make_run(job(0, [0], 99, executor="local")),
            {"submitters_here": frozenset({99})},
            [("pending", "oe-submit runs other elements first")] * 2,
        ),
    ],
)
def test_the_state_of_rows_and_why(
    run: Run, known: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert states(evidence(run, **known)) == expected


def test_times_follow_from_heartbeats() -> None:
    known = evidence(
        SUBMITTED,
        jobs=slurm("RUNNING"),
        heartbeats={1: beat(done=1)},
        done=frozenset({"11", "20", "21"}),
    )
    _, shards, total, *_ = join_evidence(known)
    # 95 s for one row and a quarter of the other.
    assert shards[1].left_s == pytest.approx(95 * 0.75 / 1.25)
    assert shards[1].rows_per_h == pytest.approx(3600 / 95)
    assert (total.state, total.done, total.not_submitted) == ("running", 3, 2)
    assert total.is_awaited
    assert total.gpu_hours == pytest.approx(95 / 3600)
    assert total.scoring_share == pytest.approx(50 / 95)
    # Two shards of 60 s each have not begun; both workers of the first element run.
    assert shards[0].left_s == 60.0
    assert total.left_s == pytest.approx((95 * 0.6 + 60 + 60) / 2)


@given(
    done=st.frozensets(st.sampled_from(["00", "10", "11", "20", "30"])),
    state=st.none() | st.sampled_from(sorted(RUNNING | WAITING | ENDS)),
    answers=st.booleans(),
    known=st.fixed_dictionaries(
        {
            "heartbeats": st.sampled_from(
                [{}, {1: beat()}, {1: beat("6_0")}, {1: beat(ended="finished")}]
            ),
            "failures": st.sampled_from([{}, failure(10), failure(10000)]),
            "workers_here": st.frozensets(st.just(1)),
        }
    ),
)
def test_each_row_is_in_one_state_and_results_win(
    done: frozenset[str], state: str | None, answers: bool, known: Any
) -> None:
    jobs = (slurm(state) if state else {}) if answers else None
    _, shards, total, *_ = join_evidence(evidence(SUBMITTED, done=done, jobs=jobs, **known))
    assert sum(getattr(total, state.name.lower()) for state in EvalState) == total.rows == 8
    assert {
        row.row["eval_id"] for s in shards for row in s.rows if row.state is EvalState.DONE
    } == done
    lost = [row for s in shards for row in s.rows if row.state is EvalState.LOST]
    active = state is not None and state in RUNNING | WAITING
    assert not lost or (answers and not active)
    assert bool(total.cancelled) <= (state == "CANCELLED" and answers)
    assert all(row.reason for row in lost)
