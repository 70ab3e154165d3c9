"""Jobs on real Slurm that run out of time, are cancelled, killed, or lose their node.

Each run has the same twelve rows and a slow model, so there is something to interrupt. The runs
share two nodes and overlap. Each test looks at the outcome of one run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.dev_cluster import DevCluster
from support.processes import make_tiny_model

TASKS = "oellm_choice,oellm_copy,oellm_prose"
ROWS = 12

SLOW_MODEL = """\
import time

from transformers import LlamaForCausalLM


class SlowLlama(LlamaForCausalLM):
    def forward(self, *arguments, **options):
        time.sleep(0.3)
        return super().forward(*arguments, **options)
"""

# Takes half an hour to make its first request.
ENDLESS_TASK = """\
task: endless
custom_dataset: !function endless.load
output_type: multiple_choice
test_split: test
doc_to_text: !function endless.ask
doc_to_choice: ["a", "b"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
ENDLESS_CODE = """\
import time

import datasets


def load(**_):
    return {"test": datasets.Dataset.from_list([{"n": 1}])}


def ask(doc):
    time.sleep(1800)
    return "?"
"""


class Evaluation:
    """A run on the dev cluster, and all result files that were ever seen in it."""

    def __init__(self, cluster: DevCluster, rows: str, *settings: str) -> None:
        self._cluster = cluster
        record = cluster.submitted(rows, *(f"--set={setting}" for setting in settings))
        self.path = Path(record["run_dir"])
        self.job_id = record["jobs"][0]["job_id"]
        self._seen: dict[str, set[tuple[int, int]]] = {}
        # What the test did to it, to explain a failure.
        self.history: list[str] = []

    def submit_again(self) -> None:
        record = json.loads(self._cluster.run("oe-submit", self.path))
        self.job_id = record["jobs"][-1]["job_id"]

    def state(self) -> str:
        """Return the state of the job in the queue, or an empty text if it is not there."""
        queue = dict(line.split() for line in self._cluster.queue())
        return str(queue.get(f"{self.job_id}_0", ""))

    def until(self, condition: Callable[[], bool], seconds: float = 1200) -> None:
        """Wait for a condition, and watch the results until it holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.finished()
            assert time.monotonic() < deadline, f"{self.path}: {self.state()}\n{self.log()}"
            time.sleep(0.2)

    def until_it_ends(self) -> None:
        self.until(lambda: not self.state())

    def until_it_gets_on(self) -> None:
        """Wait for the next answer, or the next result."""
        before = self._progress()
        self.until(lambda: self._progress() != before or not self.state())

    def _progress(self) -> tuple[int, int]:
        answers = 0
        for path in self._answers():
            # A row may end at this moment, which removes its answers.
            with contextlib.suppress(FileNotFoundError):
                answers += path.stat().st_size
        return self.finished(), answers

    def is_within_a_row(self) -> bool:
        return bool(self._answers())

    def _answers(self) -> list[Path]:
        # Not rglob, which fails if a directory disappears.
        found = os.walk(self.path / "answers")
        return [Path(directory, name) for directory, _, names in found for name in names]

    def finished(self) -> int:
        """Return the number of rows with a result."""
        for path in (self.path / "results").glob("*.json"):
            status = path.stat()
            self._seen.setdefault(path.stem, set()).add((status.st_ino, status.st_mtime_ns))
        return len(self._seen)

    def log(self) -> str:
        logs = sorted((self.path / "slurm_logs").iterdir())
        return "".join(path.read_text(errors="replace") for path in logs)

    def job(self) -> dict[str, str]:
        described: dict[str, str] = self._cluster.job(self.job_id, 0)
        return described

    def resumed(self) -> int:
        """Return how many answers later attempts took over from earlier ones."""
        return sum(result["oellm"]["usage"]["requests_kept"] for result in self._results().values())

    def _results(self) -> dict[str, Any]:
        paths = (self.path / "results").glob("*.json")
        return {path.stem: json.loads(path.read_bytes()) for path in paths}

    def scores(self) -> dict[str, Any]:
        """Return, for each row, what no interruption may change."""
        found = {}
        for row, result in self._results().items():
            samples = (self.path / "samples" / f"{row}.jsonl").read_bytes()
            found[row] = (result["results"], result["oellm"]["metrics"], samples)
        return found

    def assert_like(self, undisturbed: Evaluation) -> None:
        assert self.finished() == ROWS
        assert self.scores() == undisturbed.scores()
        written_twice = {row: files for row, files in self._seen.items() if len(files) > 1}
        assert not written_twice
        assert not self._answers()
        assert not list(self.path.rglob("*.tmp"))
        assert not list(self.path.glob("failures/*"))


@pytest.fixture(scope="module")
def runs(
    shared_cluster: DevCluster, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Evaluation]]]:
    """Start all runs; each test waits for the run that it looks at."""
    directory = tmp_path_factory.mktemp("interruptions")
    shared_cluster.env["HF_HOME"] = str(directory / "hf")
    rows = shared_cluster.manifest(
        *(slow_model(directory / "slow"), TASKS, "--n_shot=0,1,2,3"),
        *("--trust_remote_code=true", "--log_samples=true"),
    )
    endless = shared_cluster.manifest(directory / "slow", endless_task(directory), "--n_shot=0")
    # More runs at a time would only slow each other's start. The one that is stuck only sleeps.
    with ThreadPoolExecutor(4) as pool:
        yield {
            "stuck": pool.submit(stuck, shared_cluster, endless),
            "killed": pool.submit(killed, shared_cluster, rows),
            "out of time": pool.submit(out_of_time, shared_cluster, rows),
            "undisturbed": pool.submit(undisturbed, shared_cluster, rows),
            "node lost": pool.submit(node_lost, shared_cluster, rows),
            "cancelled": pool.submit(cancelled, shared_cluster, rows),
        }


def slow_model(directory: Path) -> Path:
    make_tiny_model(directory)
    (directory / "slow.py").write_text(SLOW_MODEL)
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "slow.SlowLlama"}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def endless_task(directory: Path) -> Path:
    (directory / "endless.py").write_text(ENDLESS_CODE)
    path = directory / "endless.yaml"
    path.write_text(ENDLESS_TASK)
    return path


# One function for each run. Only node n2 is lost.
ELSEWHERE = "sbatch.nodelist=n1"


def undisturbed(cluster: DevCluster, rows: str) -> Evaluation:
    run = Evaluation(cluster, rows, ELSEWHERE)
    run.until_it_ends()
    return run


def out_of_time(cluster: DevCluster, rows: str) -> Evaluation:
    # Slurm signals the job 60 to 90 seconds after its start.
    run = Evaluation(cluster, rows, ELSEWHERE, "time_limit=00:03:00", "stop_before=90")
    run.until_it_ends()
    return run


def stuck(cluster: DevCluster, rows: str) -> Evaluation:
    short = ("time_limit=00:01:00", "stop_before=20", "requeues=1")
    # In a clean environment the worker sees nothing of Slurm, yet it must count its requeues.
    run = Evaluation(cluster, rows, ELSEWHERE, *short, "container_args=--cleanenv")
    run.until_it_ends()
    return run


def node_lost(cluster: DevCluster, rows: str) -> Evaluation:
    run = Evaluation(cluster, rows, "sbatch.nodelist=n2")
    run.until(lambda: run.finished() > 0 and run.is_within_a_row())
    cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    run.until_it_ends()
    return run


def cancelled(cluster: DevCluster, rows: str) -> Evaluation:
    run = Evaluation(cluster, rows, ELSEWHERE)
    run.until(lambda: run.finished() > 0 and run.is_within_a_row())
    cluster.run("scancel", str(run.job_id))
    run.until_it_ends()
    first = run.job()
    assert (first["JobState"], first["Restarts"]) == ("CANCELLED", "0")
    assert run.finished() < ROWS
    run.submit_again()
    run.until_it_ends()
    return run


def killed(cluster: DevCluster, rows: str) -> Evaluation:
    run = Evaluation(cluster, rows, ELSEWHERE)
    seed = random.randrange(2**32)
    run.history.append(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(10):
        if not run.state():
            run.submit_again()
        run.until(lambda: supervisor(run.path) is not None)
        is_early = draw.random() < 0.4
        if not is_early:
            run.until_it_gets_on()
        time.sleep(draw.uniform(0, 10 if is_early else 2))
        assert run.state() == "RUNNING", f"{run.history}\n{run.log()}"
        name, target = draw.choice(["KILL", "TERM", "USR1"]), draw.choice(["script", "worker"])
        run.history.append(f"{name} to the {target} of job {run.job_id}")
        if target == "script":
            cluster.run("scancel", "--batch", f"--signal={name}", f"{run.job_id}_0")
        else:
            kill_worker(run, name)
        run.until(lambda: run.state() in ("PENDING", ""))
        # Slurm with cgroups would do this; without them it loses track of the script's children.
        kill_worker(run, "KILL")
    if not run.state():
        run.submit_again()
    run.until_it_ends()
    return run


def kill_worker(run: Evaluation, name: str) -> None:
    if (pid := supervisor(run.path)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[f"SIG{name}"])


def supervisor(run_dir: Path) -> int | None:
    """Return the process id of oe-run-task that all its other processes descend from."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            name, status = (process / "stat").read_text().rsplit(")", 1)
            if "python" in name and ["--run_dir", str(run_dir)] == words[2:4]:
                parents[int(process.name)] = int(status.split()[1])
    return next((pid for pid, parent in parents.items() if parent not in parents), None)


def test_a_job_that_runs_out_of_time_requeues_itself_until_all_is_done(
    runs: dict[str, Future[Evaluation]],
) -> None:
    run = runs["out of time"].result()
    run.assert_like(runs["undisturbed"].result())
    job = run.job()
    assert job["JobState"] == "COMPLETED"
    assert int(job["Restarts"]) >= 1
    told = f"stopped before the time limit: job {run.job_id}_0 requeues itself\n"
    assert run.log().count(told) == int(job["Restarts"])


def test_a_job_that_loses_its_node_goes_on(runs: dict[str, Future[Evaluation]]) -> None:
    run = runs["node lost"].result()
    run.assert_like(runs["undisturbed"].result())
    job = run.job()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert run.resumed() > 0


def test_a_job_that_is_cancelled_stays_so_until_it_is_submitted_again(
    runs: dict[str, Future[Evaluation]],
) -> None:
    run = runs["cancelled"].result()
    run.assert_like(runs["undisturbed"].result())
    assert run.resumed() > 0


def test_no_kill_loses_a_row_or_evaluates_it_twice(
    runs: dict[str, Future[Evaluation]],
) -> None:
    run = runs["killed"].result()
    # pytest shows it if the test fails.
    logging.getLogger(__name__).warning("%s", run.history)
    run.assert_like(runs["undisturbed"].result())


def test_a_job_without_progress_ends(runs: dict[str, Future[Evaluation]]) -> None:
    run = runs["stuck"].result()
    job = run.job()
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "1:0", "1")
    assert not run.finished()
    assert "oe-run-task: stuck: 2 times in a row the time ran out before " in run.log()
