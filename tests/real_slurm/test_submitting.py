"""oe-submit on real Slurm: queue limits, an absent controller, rivals, cancelled jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.dev_cluster import DevCluster
from support.processes import BIN, ROOT, clean_environment, make_tiny_model
from support.stub_worker import render_for_stub
from support.submitting import until_it_says
from support.waiting import wait_until

ROWS = 40
# Notes each start, and waits while it is held.
STUB = """
with open(run_dir / "ran", "a") as ran:
    ran.write(shard + "\\n")
while (run_dir / "hold").exists():
    time.sleep(0.1)
"""


class Evaluation:
    """A run of 40 rows whose worker is the stub."""

    def __init__(self, cluster: DevCluster, hold: bool = False) -> None:
        self.cluster = cluster
        rows = "".join(f"acme/m{n % 10},t{n},0\n" for n in range(ROWS))
        rendered = render_for_stub(cluster, rows, STUB)
        self.path = Path(rendered["run_dir"])
        self.elements = sum(array["elements"] for array in rendered["arrays"])
        assert self.elements >= 8
        if hold:
            (self.path / "hold").touch()

    def submit(self, *options: str, status: int = 0) -> str:
        return str(self.cluster.call("oe-submit", *options, self.path, status=status).stderr)

    def started(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "oe-submit", *options, self.path],
            env=clean_environment(self.cluster.base, self.cluster.env),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def let_go(self) -> None:
        (self.path / "hold").unlink()

    def results(self) -> int:
        return len(list((self.path / "results").glob("*.json")))

    def ran(self) -> Counter[str]:
        """Return how often each shard ran."""
        return Counter((self.path / "ran").read_text().split())

    def is_done_once(self) -> bool:
        shards = len(json.loads((self.path / "run.json").read_text())["shards"])
        return self.results() == ROWS and sorted(self.ran().values()) == [1] * shards


class Watch:
    """A context that watches the queue; `most` is the largest number of elements seen in it."""

    def __init__(self, cluster: DevCluster) -> None:
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = self.samples = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, len(self._cluster.queue()))
            self.samples += 1


@pytest.fixture
def nothing_queued(shared_cluster: DevCluster) -> Iterator[DevCluster]:
    shared_cluster.stop()
    yield shared_cluster
    shared_cluster.stop()


def test_a_limit_of_three_is_kept_by_repeated_calls(nothing_queued: DevCluster) -> None:
    evaluation = Evaluation(nothing_queued)
    deadline = time.monotonic() + 300
    with Watch(nothing_queued) as watch:
        while "rows have results" not in evaluation.submit("--queue_limit=3"):
            assert time.monotonic() < deadline
    assert evaluation.is_done_once()
    assert watch.most == 3
    assert watch.samples > 10


def test_waiting_keeps_the_limit_and_ends_with_all_results(nothing_queued: DevCluster) -> None:
    evaluation = Evaluation(nothing_queued)
    with Watch(nothing_queued) as watch:
        told = evaluation.submit("--queue_limit=3", "--wait=done", "--poll=1")
    assert f"{ROWS} of {ROWS} rows have results" in told
    assert evaluation.is_done_once()
    assert watch.most == 3


def test_the_real_worker_is_waited_for(
    nothing_queued: DevCluster, image: Path, tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "iter_1000")
    rows = nothing_queued.manifest(tmp_path / "iter_1000", "oellm_choice,oellm_copy", "--n_shot=0")
    rendered = nothing_queued.run("oe-render", stdin=rows)
    done = nothing_queued.call("oe-submit", "--wait=done", "--poll=1", stdin=rendered)
    assert "2 of 2 rows have results" in done.stderr
    assert nothing_queued.queue() == []


def test_no_row_is_lost_or_submitted_twice_while_the_controller_is_away(
    nothing_queued: DevCluster, slurm_conf: Path
) -> None:
    evaluation = Evaluation(nothing_queued)
    waiting = evaluation.started("--queue_limit=3", "--wait=done", "--poll=1")
    while not evaluation.results():
        time.sleep(0.1)
    os.kill(int((slurm_conf.parent / "run" / "slurmctld.pid").read_text()), signal.SIGTERM)
    until_it_says(waiting, "Unable to contact slurm controller")
    command = [ROOT / "scripts" / "dev-cluster", "up", "--dir", slurm_conf.parent]
    subprocess.run(command, check=True)
    _, told = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, told
    assert evaluation.is_done_once(), told


def test_two_simultaneous_calls_submit_nothing_twice(nothing_queued: DevCluster) -> None:
    evaluation = Evaluation(nothing_queued, hold=True)
    rivals = [evaluation.started() for _ in range(2)]
    told = [rival.communicate(timeout=240)[1] for rival in rivals]
    assert sorted(f"{evaluation.elements} submitted" in text for text in told) == [False, True]
    assert len(nothing_queued.queue()) == evaluation.elements
    assert not (evaluation.path / "submit.lock").exists()
    evaluation.let_go()
    nothing_queued.wait(180)
    assert evaluation.is_done_once()


def test_another_job_with_the_number_of_ours_is_not_ours(cluster: DevCluster) -> None:
    evaluation = Evaluation(cluster)
    other = cluster.run(
        "sbatch", "--parsable", "--array=0", "--output=/dev/null", "--wrap=sleep 60"
    )
    path = evaluation.path / "run.json"
    record = json.loads(path.read_text())
    entry = {"executor": "slurm", "array": 0, "elements": [0], "offset": 0, "command": []}
    entry |= {"submitted": "2024-01-15T14:30:45+00:00", "comment": "oellm:x:1-ab"}
    record["jobs"] = [entry | {"job_id": int(other)}]
    path.write_text(json.dumps(record))
    status = cluster.call("oe-status", evaluation.path, status=75).stdout
    assert "in the queue" not in status
    assert "its job is no longer known to Slurm" in status
    assert f"job {other.strip()} is left alone" in evaluation.submit("--cancel")
    assert f"elements: {evaluation.elements} submitted\n" in evaluation.submit()
    assert f"{other.strip()}_0" in " ".join(cluster.queue())
    cluster.run("scancel", other.strip())


def test_cancelling_leaves_other_runs_alone_and_the_next_call_goes_on(
    nothing_queued: DevCluster,
) -> None:
    kept, cancelled = (Evaluation(nothing_queued, hold=True) for _ in range(2))
    kept.submit("--queue_limit=2")
    cancelled.submit("--queue_limit=5")
    # squeue may name the jobs of either run last.
    job = json.loads((cancelled.path / "run.json").read_text())["jobs"][-1]["job_id"]
    elements = [line for line in nothing_queued.queue() if line.startswith(f"{job}_")]
    cancelled.cluster.run("scancel", elements[-1].split()[0])
    told = cancelled.submit("--cancel")
    assert told.startswith("oe-submit: cancelled job ")
    wait_until(lambda: len(nothing_queued.queue()) <= 2, 120)
    assert cancelled.submit("--cancel").startswith("oe-submit: nothing is in the queue for ")
    for evaluation in (kept, cancelled):
        evaluation.let_go()
        evaluation.submit("--wait=done", "--poll=1")
        assert evaluation.results() == ROWS
    assert kept.is_done_once()
