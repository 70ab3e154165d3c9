"""The explanation of how a job ended."""

from __future__ import annotations

import pytest

from oellm.slurm.job_ends import JobEnd, explain_end
from oellm.slurm.job_states import JobState

FATAL = "FATAL:   While checking container encryption: could not open image /x.sif: not recognized"
FATAL_LINE = " ".join(FATAL.split())
MOUNT = "FATAL:   container creation failed: mount /a->/a error: mount source /a doesn't exist"
LIMIT = (
    "oe-run-task: 1 of 2\nslurmstepd: error: *** JOB 4 ON n1 CANCELLED AT 1 DUE TO TIME LIMIT ***\n"
)


@pytest.mark.parametrize(
    ("job", "log", "end"),
    [
        (None, "", JobEnd("its job is no longer known to Slurm")),
        (None, "a\nb\n\n", JobEnd("its job is no longer known to Slurm", "b")),
        (
            None,
            "slurmstepd: error: Detected 1 oom_kill event in StepId=4.batch. Some of the step\n",
            JobEnd(
                "its job ran out of memory (setting mem)",
                "slurmstepd: error: Detected 1 oom_kill event in StepId=4.batch. Some of the step",
            ),
        ),
        (
            JobState("FAILED", signal=9),
            "loads\n"
            "slurmstepd-n1: error: StepId=4.batch exceeded memory limit (4 > 2), being killed\n"
            "slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 2026-11-22T15:04:58 ***\n",
            JobEnd("its job ran out of memory (setting mem)", "loads"),
        ),
        (
            JobState("FAILED", exit_code=137),
            "a model says: exceeded memory limit\n",
            JobEnd(
                "its job was killed by signal 9 (SIGKILL), probably for lack of memory",
                "a model says: exceeded memory limit",
            ),
        ),
        (
            JobState("FAILED", signal=11),
            "",
            JobEnd("its job was killed by signal 11 (SIGSEGV)"),
        ),
        # Apptainer's status is no signal, and neither is another's.
        (
            JobState("FAILED", exit_code=255),
            f"{FATAL}\n\n",
            JobEnd("its job ended with status 255: the container did not start", FATAL_LINE),
        ),
        (
            JobState("FAILED", exit_code=255),
            f"{MOUNT}\n",
            JobEnd(
                "its job ended with status 255: a path that the container should see does not "
                "exist (RUN_DIR/binds lists them)",
                " ".join(MOUNT.split()),
            ),
        ),
        (JobState("FAILED", exit_code=193), "", JobEnd("its job ended with status 193")),
        (
            JobState("FAILED", exit_code=192),
            "",
            JobEnd("its job was killed by signal 64 (SIGRTMAX)"),
        ),
        (
            JobState("FAILED", exit_code=1),
            "OSError: [Errno 28] No space left on device\nanother line\n",
            JobEnd(
                "its job ended with status 1: a disk or quota is full",
                "OSError: [Errno 28] No space left on device",
            ),
        ),
        (
            JobState("FAILED", exit_code=3),
            "a\x1b[31mb\x07\n",
            JobEnd("its job ended with status 3", "a [31mb"),
        ),
        (JobState("FAILED", exit_code=75), "", JobEnd("its job got a signal to stop")),
        (
            JobState("FAILED", exit_code=75),
            "results cannot be written: No space left on device: r/1.json\n",
            JobEnd(
                "its job ended with status 75: a disk or quota is full",
                "results cannot be written: No space left on device: r/1.json",
            ),
        ),
        (JobState("CANCELLED"), "a\n", JobEnd("its job was cancelled", is_cancelled=True)),
        (
            JobState("CANCELLED", cancelled_by="ada"),
            "",
            JobEnd("its job was cancelled by ada", is_cancelled=True),
        ),
        (JobState("NODE_FAIL", nodes="n2"), "a\n", JobEnd("its node failed (n2)", "a")),
        (JobState("BOOT_FAIL", nodes="n2"), "", JobEnd("its node did not start (n2)")),
        (
            JobState("TIMEOUT"),
            LIMIT,
            JobEnd("its job reached its time limit", "oe-run-task: 1 of 2"),
        ),
        (JobState("PREEMPTED"), "", JobEnd("its job was preempted")),
        (JobState("OUT_OF_MEMORY"), "", JobEnd("its job ran out of memory (setting mem)")),
        (JobState("DEADLINE"), "", JobEnd("its job reached its deadline")),
        (JobState("COMPLETED"), "", JobEnd("its job ended normally without it")),
        (JobState("REVOKED"), "", JobEnd("its job ended as REVOKED")),
    ],
)
def test_the_end_of_a_job_is_explained(job: JobState | None, log: str, end: JobEnd) -> None:
    assert explain_end(job, log) == end
