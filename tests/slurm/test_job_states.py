"""The answers of sacct, and the explanation of how a job ended."""

from __future__ import annotations

import datetime

import pytest

from oellm.errors import OellmError
from oellm.slurm import job_states
from oellm.slurm.job_states import ArrayTask, SlurmJob

SUBMITTED = datetime.datetime(2026, 11, 22, 15, tzinfo=datetime.timezone.utc)
OURS = SlurmJob(4711, "oellm:x:1-ab", SUBMITTED, "cm4")

# From Slurm 22.05.
ACCOUNTS = """\
4711_0|COMPLETED|0:0|n1|2026-11-22T15:04:56|2026-11-22T15:05:56|2026-11-22T15:04:50|
4711_0.batch|COMPLETED|0:0|n1|2026-11-22T15:04:56|2026-11-22T15:05:56|2026-11-22T15:04:50|
4711_1|FAILED|1:0|n1|2026-11-22T15:04:56|2026-11-22T15:05:56|2026-11-22T15:04:50|oellm:x:1-ab
4711_1.batch|OUT_OF_MEMORY|0:125|n1|2026-11-22T15:04:56|2026-11-22T15:05:56|2026-11-22T15:04:50|
4711_2|CANCELLED by 1000|0:0|None assigned|Unknown|Unknown|2026-11-22T15:04:50|
4711_[3-9]|PENDING|0:0|None assigned|Unknown|Unknown|2026-11-22T15:04:50|
4711_10|COMPLETED|0:0|n1|2026-11-22T15:04:56|2026-11-22T15:05:56|2026-11-22T15:04:50|another's
4711_11|COMPLETED|0:0|n1|2024-11-22T15:04:56|2024-11-22T15:05:56|2024-11-22T15:04:50|
4712|TIMEOUT|0:0|n1|2026-11-22T15:04:56|2026-11-22T15:05:56|2026-11-22T15:04:50|
"""


def test_sacct_is_read_and_a_step_that_ran_out_of_memory_counts() -> None:
    found = job_states.parse_accounting(ACCOUNTS, {4711: [OURS]})
    assert {task.array_index: job.state for task, job in found.items()} == {
        0: "COMPLETED",
        1: "OUT_OF_MEMORY",
        2: "CANCELLED",
    }
    cancelled = found[ArrayTask(4711, 2, "cm4", "oellm:x:1-ab")]
    assert cancelled.cancelled_by == "1000"


def test_a_job_is_ours_by_number_and_comment() -> None:
    assert OURS.has_comment("oellm:x:1-ab")
    assert OURS.has_comment("oellm:x:1-ab;charged to acme")
    assert not OURS.has_comment("oellm:x:2-ab")
    assert not OURS.has_comment("(null)")
    assert SlurmJob(4711, "", SUBMITTED).has_comment("(null)")
    assert not SlurmJob(4711, "", SUBMITTED).has_comment("another's")


@pytest.mark.parametrize("text", ["JOBID STATE", "", "4711_0|COMPLETED", "4711_0|FAILED|x|n1|a"])
def test_anything_else_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(OellmError, match="sacct: expected a job's fields, got"):
        job_states.parse_accounting(f"{text}\n", {4711: [OURS]})
