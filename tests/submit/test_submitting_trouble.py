"""oe-submit if Slurm fails for a moment, refuses or loses an answer, and if two of it run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.slurm.accounting import parse_associations
from oellm.slurm.job_states import JobState
from oellm.slurm.queue import QueuedElement
from oellm.submit.array_elements import Element, make_batches
from oellm.submit.queue_limits import Limit
from support.processes import Run
from support.submitting import FakeSlurm, finish, jobs, queue_line, until_it_says, waiting

# Many processes, some of which wait.
pytestmark = pytest.mark.slow

LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"


def change(record: dict[str, Any], **values: Any) -> None:
    """Change run.json."""
    path = Path(record["run_dir"]) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), unique=True),
    st.none() | st.integers(1, 20),
)
def test_batches_have_each_element_once_and_stay_below_the_array_size(
    ready: list[tuple[int, int]], size: int | None
) -> None:
    found = make_batches([Element(*element) for element in ready], size)
    assert sorted((batch.array, n) for batch in found for n in batch.elements) == sorted(ready)
    assert len({(batch.array, batch.offset) for batch in found}) == len(found)
    for batch in found:
        indices = [number - batch.offset for number in batch.elements]
        assert all(0 <= index < (size or 51) for index in indices)


@given(st.lists(st.sampled_from([("acme", "long"), ("acme", "normal"), ("other", "long")])))
def test_a_limit_counts_the_elements_of_its_qos_and_account(queue: list[tuple[str, str]]) -> None:
    elements = [QueuedElement(1, None, JobState("PENDING"), account, qos) for account, qos in queue]
    expected = max(0, 5 - sum(qos == "long" for _, qos in queue))
    assert Limit("MaxSubmitJobs", 5, qos="long").room(elements) == expected
    expected = max(0, 5 - queue.count(("acme", "long")))
    assert Limit("both", 5, account="acme", qos="long").room(elements) == expected


def test_elements_beyond_the_array_size_get_an_offset(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("array_size", "3")
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    first, second = jobs(rendered)
    assert (first["elements"], first["offset"]) == ([0, 1, 2], 0)
    assert (second["elements"], second["offset"]) == ([3], 3)
    script = second["command"].index(f"{rendered['run_dir']}/submit_evals.sbatch")
    assert second["command"][script + 1] == "3"
    assert slurm.queue() == ["4711 0", "4711 1", "4711 2", "4712 0"]
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert done.stderr == "oe-submit: elements: 4 already in the queue\n"


def test_limits_of_the_accounting_are_kept(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("associations", "acme||normal|30||normal\n")
    slurm.says("qos", "normal|3|\n")
    slurm.has_queued("7 0 acme normal", "8 0 acme long")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() == ["0-1"]
    assert "2 waiting for room (MaxSubmitJobsPerUser of QOS normal 3)" in done.stderr
    associations = parse_associations("a|gpu|normal|||normal,long\n")
    assert associations == [("a", "gpu", "normal", "", "", "normal,long")]


def test_limits_of_an_account_that_is_written_in_other_letters(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    path = Path(rendered["run_dir"], "run.json")
    record = json.loads(path.read_text())
    record["cluster"] |= {"account": "Acme", "qos": "Normal"}
    path.write_text(json.dumps(record))
    slurm.says("associations", "acme||long|2||normal\n")
    slurm.says("qos", "normal|3|\n")
    slurm.has_queued("7 0 acme normal")
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() == ["0"]
    slurm.says("associations", "acme||long|9||normal\n")
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() == ["1"]


def test_a_submit_limit_means_lack_of_room_only_if_jobs_are_queued(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("sbatch.fails", f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: {POLICY}")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "submit fewer at a time: --queue_limit=N" in done.stderr
    slurm.has_queued("7 0")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert "4 waiting for room (Slurm's own limit)" in done.stderr
    slurm.says("sbatch.fails", f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}")
    done = run("oe-submit", rendered["run_dir"], env=slurm.env, status=1)
    assert "oe-render --set=time_limit=…" in done.stderr
    assert jobs(rendered) == []


@pytest.mark.parametrize(
    "words",
    [
        "slurm_load_jobs error: Unable to contact slurm controller",
        "squeue: fatal: Could not establish a configuration source",
    ],
)
def test_questions_are_repeated_and_a_lost_job_is_looked_for(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], words: str
) -> None:
    slurm.says("squeue.stumbles", f"{words}\n")
    slurm.says("sbatch.loses", LOST)
    done = run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert f"{words}; next try in 1 s" in done.stderr
    assert "job 4711 was submitted, although its number was lost" in done.stderr
    assert slurm.submitted() == ["0-3"]
    assert [job["job_id"] for job in jobs(rendered)] == [4711]


@pytest.mark.parametrize("is_there", [True, False])
def test_the_next_call_resolves_the_submission_of_a_killed_call(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], is_there: bool
) -> None:
    entry = {
        "executor": "slurm",
        "job_id": None,
        "array": 0,
        "elements": [0, 1],
        "offset": 0,
        "comment": "oellm:x:1-ab",
        "submitted": "2024-01-15T14:30:45+00:00",
        "command": [],
    }
    change(rendered, jobs=[entry])
    slurm.has_queued(*["9 0 acme normal oellm:x:1-ab"] * is_there)
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() == (["1-3"] if is_there else ["0-3"])
    assert [job["job_id"] for job in jobs(rendered)] == ([9, 4711] if is_there else [4711])


def test_a_dry_run_prints_the_command_lines_and_does_nothing(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    before = (Path(rendered["run_dir"]) / "run.json").read_bytes()
    done = run("oe-submit", "--dry_run", rendered["run_dir"], env=slurm.env)
    assert slurm.submitted() == []
    assert (Path(rendered["run_dir"]) / "run.json").read_bytes() == before
    run("bash", "-c", done.stdout, env=slurm.env)
    assert slurm.submitted() == ["0-3"]
    done = run("oe-submit", "--dry_run", "--executor=local", rendered["run_dir"])
    assert len(done.stdout.splitlines()) == 4


def test_cancelling_a_run_that_was_never_submitted_needs_no_slurm(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    slurm.says("squeue.fails", "squeue: fatal: Could not establish a configuration source\n")
    done = run("oe-submit", "--cancel", rendered["run_dir"], env=slurm.env)
    assert done.stderr == f"oe-submit: nothing is in the queue for {rendered['run_dir']}\n"


def test_cancelling_touches_only_our_jobs(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    run("oe-submit", rendered["run_dir"], env=slurm.env)
    queue = (slurm.directory / "queue").read_text()
    slurm.has_queued("4711 0 acme normal another's")
    done = run("oe-submit", "--cancel", rendered["run_dir"], env=slurm.env)
    assert "job 4711 is left alone: its comment is not this run's" in done.stderr
    assert slurm.queue() == ["4711 0"]
    slurm.says("queue", queue + queue_line("5", "0"))
    done = run("oe-submit", "--cancel", rendered["run_dir"], env=slurm.env)
    assert (done.stdout, done.stderr) == ("", "oe-submit: cancelled job 4711: elements 0-3\n")
    assert slurm.queue() == ["5 0"]


def test_a_waiting_call_does_not_resubmit_an_element_that_failed(
    tmp_path: Path, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    process = waiting(tmp_path, slurm, rendered, "--poll=1", "--queue_limit=3")
    until_it_says(process, "1 waiting for room")
    finish(rendered, 1, 2, 3)
    slurm.says("queue", "")
    _, told = process.communicate(timeout=20)
    assert "1 ended, but not all of their rows have results, 3 finished" in told
    assert (process.returncode, slurm.submitted()) == (1, ["0-2"])


def test_an_interrupt_leaves_queued_jobs_in_the_queue(
    tmp_path: Path, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    process = waiting(tmp_path, slurm, rendered)
    until_it_says(process, "4 submitted")
    assert not (Path(rendered["run_dir"]) / "submit.lock").exists()
    process.send_signal(signal.SIGINT)
    output, told = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")
    assert "submitted jobs stay in the queue: oe-submit --wait=done " in told


def lock(record: dict[str, Any], **values: Any) -> Path:
    path = Path(record["run_dir"]) / "submit.lock"
    holder = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "1 2", "user": "ada"}
    path.write_text(json.dumps(holder | {"since": "then", "token": "t"} | values))
    return path


@pytest.mark.parametrize("is_old", [True, False])
def test_concurrent_calls_that_find_a_stale_lock_submit_nothing_twice(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], is_old: bool
) -> None:
    path = lock(rendered, **({"host": "elsewhere"} if is_old else {}))
    if is_old:
        os.utime(path, (time.time() - 1000,) * 2)
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(run, "oe-submit", rendered["run_dir"], env=slurm.env) for _ in range(3)
        ]
        told = sorted(call.result().stderr.splitlines()[-1] for call in calls)
    assert told == [
        *["oe-submit: elements: 4 already in the queue"] * 2,
        "oe-submit: elements: 4 submitted",
    ]
    assert not list(path.parent.glob("submit.lock*"))


# oe-submit, with a second instead of half a minute.
IMPATIENT = """\
import sys
import oe_submit
from oellm.runs import submit_lock
assert submit_lock._PATIENCE_S == 30
submit_lock._PATIENCE_S = 1
sys.exit(oe_submit.main())
"""


def test_oe_submit_waits_half_a_minute_for_a_lock_that_somebody_holds(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any]
) -> None:
    path = lock(rendered, host="login2")
    command = (sys.executable, "-c", IMPATIENT, rendered["run_dir"])
    done = run(*command, env=slurm.env, status=75)
    assert "of ada on login2; try again later" in done.stderr
    assert path.exists()
    assert slurm.submitted() == []


def test_a_directory_that_cannot_be_written_is_named(
    run: Run, slurm: FakeSlurm, rendered: dict[str, Any], small_disk: Path
) -> None:
    for name in ("jobs.csv", "submit_evals.sbatch"):
        (small_disk / name).write_bytes((Path(rendered["run_dir"]) / name).read_bytes())
    # The worker itself would not fit.
    (small_disk / "oe-run-task.pyz").touch()
    worker = {**rendered["worker"], "sha256": hashlib.sha256(b"").hexdigest()}
    (small_disk / "run.json").write_text(json.dumps({**rendered, "worker": worker}))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = run("oe-submit", small_disk, env=slurm.env, status=2)
    reason = "cannot write the lock, so nothing is submitted: Read-only file system"
    assert done.stderr == f"oe-submit: {small_disk}: {reason}\n"
