"""Rows with two stages: which stage a row is in, what shards and totals say, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oellm.manifest.rows import Row
from oellm.runs.heartbeat import Heartbeat
from oellm.runs.result_store import RecordedFailure
from oellm.runs.run_directory import Run
from oellm.slurm.job_states import ArrayTask, JobState
from oellm.status.records import describe_row, describe_run, describe_shard
from oellm.status.row_titles import make_titles
from oellm.status.run_status import join_evidence
from oellm.status.statuses import RunStatus
from oellm.status.table import table_lines
from support.golden_files import assert_golden
from support.status_evidence import ago, make_evidence

# The second stages of the first array's elements are computed by those of the second array; the
# second element has none.
ARRAYS = [
    {"script": "a", "eval_suite": "x", "gpus": 1, "workers": 1, "elements": 2, "first_shard": 0},
    {
        "script": "b",
        "eval_suite": "x",
        "gpus": 0,
        "workers": 1,
        "elements": 2,
        "first_shard": 2,
        "follows": 0,
        "cpus": 2,
        "memory_gib": 4,
    },
]
SHARDS = [
    {"index": n, "array": n // 2, "element": n % 2, "models": 1, "rows": 2, "estimate_s": 60.0}
    for n in range(4)
]
SHARDS[3]["rows"] = 0
# a, b and c have two stages; d has one, in the second shard.
ROWS = [
    Row(
        {
            "eval_id": name,
            "shard": str(int(name == "d")),
            "n_shot": "",
            "evaluate_shard": "" if name == "d" else "2",
            "model_path": "acme/m",
            "task_path": f"task_{name}",
        }
    )
    for name in "abcd"
]
FIRST, SECOND = ArrayTask(7, 0), ArrayTask(8, 0)


def job(array: int, job_id: int, *elements: int) -> dict[str, Any]:
    entry = {"executor": "slurm", "array": array, "elements": list(elements), "offset": 0}
    return {**entry, "submitted": ago(600), "job_id": job_id}


RUN = Run(
    Path("/run"),
    {
        "arrays": ARRAYS,
        "shards": SHARDS,
        "plan": {},
        "created": ago(700),
        "jobs": [job(0, 7, 0, 1), job(1, 8, 0)],
    },
)


def beat(shard: int, *at_work: str, stage: str, ended: str = "", **counts: int) -> Heartbeat:
    attempt = {"job": "7_0" if shard < 2 else "8_0", "gpus": int(shard < 2)}
    attempt |= {"started": ago(100), "updated": ago(0), "scoring_s": 50.0 if shard < 2 else 0.0}
    work = {"phase": "scoring", "started": ago(50), "stage": stage}
    state = {"total": 3, "skipped": 0, "done": 0, "failed": 0, "ended": ended, "loading": ""}
    facts = {"shard": shard, "host": "n1", "pid": 1, "process_start": 1, "attempts": [attempt]}
    rows = [{**work, "eval_id": name} for name in at_work]
    return Heartbeat.from_json({**facts, **attempt, **state, **counts, "rows": rows})


def failure(stage: str, seconds: float = 10) -> RecordedFailure:
    ours = {"class": "ValueError", "message": "no", "attempts": 1, "log": "/log", "stage": stage}
    return RecordedFailure.from_json(
        {"oellm": {"failure": ours, "timing": {"finished": ago(seconds)}}}
    )


def look(**known: Any) -> RunStatus:
    known = {name: frozenset(v) if isinstance(v, str) else v for name, v in known.items()}
    return join_evidence(make_evidence(RUN, ROWS, **known))


def states(status: RunStatus, number: int = 3) -> list[str]:
    """Return shard, stage, state and reason of the first rows."""
    rows = (describe_row(status.run, row) for row in status.states[:number])
    return [f"{r.shard} {r.stage} {r.state}: {r.reason}" for r in rows]


WAITS = JobState("PENDING", reason="Dependency")
DEPENDS = "waits for its first stages"


def test_a_row_is_in_the_stage_that_is_not_done() -> None:
    running = look(
        jobs={FIRST: JobState("RUNNING", nodes="n1"), SECOND: WAITS},
        heartbeats={0: beat(0, "b", stage="generate", generated=1)},
        generated="a",
    )
    assert states(running) == [
        f"2 evaluate pending: {DEPENDS}",
        "0 generate running: generating",
        "0 generate pending: in a running job, not started",
    ]
    total = running.totals
    assert (total.rows, total.running, total.pending, total.lost) == (4, 1, 2, 1)
    assert (total.generating, total.generated, total.evaluating) == (1, 1, 0)
    # The output of a row that is being evaluated is there, whatever can be seen of it now.
    for generated in ("b", ""):
        evaluating = look(
            jobs={FIRST: JobState("COMPLETED"), SECOND: JobState("RUNNING", nodes="n2")},
            heartbeats={2: beat(2, "b", stage="evaluate", done=1)},
            done="a",
            generated=generated,
            failures={"c": failure("generate")},
        )
        assert states(evaluating) == [
            "2 evaluate done: ",
            "2 evaluate running: evaluating",
            "0 generate failed: ValueError: no",
        ]


def test_each_stage_is_lost_for_its_own_reason() -> None:
    ended = look(
        jobs={FIRST: JobState("TIMEOUT"), SECOND: JobState("OUT_OF_MEMORY")},
        generated="ab",
        failures={"a": failure("evaluate"), "b": failure("generate")},
    )
    assert states(ended) == [
        "2 evaluate failed: ValueError: no; its job ran out of memory (setting mem)",
        "2 evaluate lost: its job ran out of memory (setting mem)",
        "0 generate lost: its job reached its time limit",
    ]
    # A failure of the second stage does not tell why the first one, computed again, has no output.
    again = look(
        jobs={FIRST: JobState("TIMEOUT"), SECOND: WAITS}, failures={"a": failure("evaluate")}
    )
    assert states(again, 1) == ["0 generate lost: its job reached its time limit"]


def test_a_second_stage_that_slurm_gave_up_is_lost_and_not_cancelled_by_anybody() -> None:
    reason = "Slurm did not start its job, because that of the first stages did not succeed"

    def told(**second: str) -> list[str]:
        jobs = {FIRST: JobState("TIMEOUT"), SECOND: JobState("CANCELLED", **second)}
        return states(look(jobs=jobs, generated="a"), 1)

    # As squeue says it, and as sacct does.
    assert told(reason="DependencyNeverSatisfied") == [f"2 evaluate lost: {reason}"]
    assert told() == [f"2 evaluate lost: {reason}"]
    assert told(reason="None") == ["2 evaluate cancelled: its job was cancelled"]
    assert told(cancelled_by="ada") == ["2 evaluate cancelled: its job was cancelled by ada"]


def test_what_is_out_of_date_waits_for_oe_submit_in_its_stage() -> None:
    known = {"jobs": {FIRST: JobState("COMPLETED"), SECOND: JobState("COMPLETED")}}
    stale = look(
        stale={"a": "task task_a changed", "b": "weights changed"},
        stale_outputs={"b": "weights changed", "c": "weights changed"},
        generated="a",
        **known,
    )
    assert states(stale) == [
        "2 evaluate not submitted: stale: task task_a changed; oe-submit evaluates it again",
        "0 generate not submitted: stale: weights changed; oe-submit generates it again",
        "0 generate not submitted: stale: weights changed; oe-submit generates it again",
    ]
    assert (stale.totals.not_submitted, stale.totals.is_awaited) == (3, False)
    told = "\n".join(table_lines(stale, 80))
    assert "3 not submitted" in told
    assert "2 rows not submitted in generate: stale: weights changed; oe-submit" in told


def test_shards_have_a_stage_and_those_without_rows_are_not_there() -> None:
    status = look(
        jobs={FIRST: JobState("RUNNING", nodes="n1"), SECOND: WAITS},
        heartbeats={0: beat(0, "b", stage="generate", generated=1, failed=1)},
        generated="a",
        failures={"c": failure("generate")},
    )
    titles = make_titles(status.rows)
    shards = [describe_shard(RUN, shard, titles) for shard in status.shards]
    assert [(s.shard, s.stage, s.state, s.rows) for s in shards] == [
        *((0, "generate", "running", 3), (1, "", "lost", 1), (2, "evaluate", "pending", 3))
    ]
    assert shards[0].counts["done"] == 1
    assert shards[2].reason == DEPENDS
    # One row has failed, of which there is nothing to evaluate.
    assert {state: n for state, n in shards[2].counts.items() if n} == {"pending": 2, "failed": 1}
    assert describe_run(status).to_json()["generated"] == 1


def test_what_is_left_is_the_first_stages_and_the_longest_second_one() -> None:
    status = look(
        jobs={FIRST: JobState("RUNNING", nodes="n1"), SECOND: WAITS},
        heartbeats={0: beat(0, "b", stage="generate", generated=1)},
        generated="a",
        done="d",
    )
    first, _, second = status.shards
    assert first.rows_per_h == status.totals.rows_per_h == pytest.approx(36)
    assert first.left_s == pytest.approx(200)
    assert second.left_s == 60
    assert status.totals.left_s == pytest.approx(260)
    # Second stages neither ask a model nor use a GPU.
    late = look(
        jobs={FIRST: JobState("COMPLETED"), SECOND: JobState("RUNNING", nodes="n1")},
        heartbeats={
            0: beat(0, stage="", generated=3, ended="finished"),
            2: beat(2, "b", stage="evaluate", done=1),
        },
        generated="bc",
        done="ad",
    )
    assert late.totals.scoring_share == pytest.approx(0.5)
    assert late.totals.gpu_hours == pytest.approx(100 / 3600)
    assert late.totals.left_s == pytest.approx(200)


def test_the_table_of_two_stages_is_golden() -> None:
    status = look(
        jobs={FIRST: JobState("RUNNING", nodes="node1"), SECOND: WAITS},
        heartbeats={0: beat(0, "b", stage="generate", generated=1, failed=1)},
        generated="a",
        failures={"c": failure("generate")},
    )
    text = "".join(f"{line}\n" for line in table_lines(status, 80))
    assert max(map(len, text.splitlines())) <= 80
    assert_golden("status-stages.table", text)
