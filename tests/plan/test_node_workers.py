"""The batch script of whole nodes: several workers, each with its own GPUs and CPUs.

A stub stands in for the worker, and for scontrol; tests/real_slurm/ has the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.processes import clean_environment

# It starts many processes, some of which wait.
pytestmark = pytest.mark.slow

# Notes what it was given, waits for a signal if the test says so, and ends.
WORKER = f"""#!{sys.executable}
import json, os, signal, sys
signals = [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
shard = sys.argv[-1]
status, told = json.loads(os.environ["ENDS"]).get(shard, (0, False))
names = [name for name in os.environ if name.endswith(("_DEVICES", "_ORDINAL"))]
seen = {{
    "gpus": {{name: os.environ[name] for name in names}},
    "cpus": sorted(os.sched_getaffinity(0)),
    "log": os.readlink("/proc/self/fd/2"),
    "signal": 0,
}}
def note():
    with open(f"shard.{{shard}}.new", "w") as stream:
        json.dump(seen, stream)
    os.rename(stream.name, f"shard.{{shard}}")
note()
if told:
    # Not for ever: if a test fails, nobody stops this process.
    seen["signal"] = signal.sigtimedwait(signals, 60).si_signo
    note()
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""

SCONTROL = """#!/bin/bash
echo "$@" >>"$SCONTROL_CALLS"
"""

CUDA = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}


def render(base: Path, *settings: str) -> Path:
    """Render a run of six models on nodes of four GPUs; its worker is the stub."""
    for name, text in (("venv/bin/python", WORKER), ("bin/scontrol", SCONTROL)):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    given = [f"eval_base_dir={base}", f"venv={base}/venv", "whole_node=true", "gpus_per_node=4"]
    given.append("shard_time=0")
    models = "".join(f"acme/m{number},mmlu,0\n" for number in range(6))
    done = subprocess.run(
        ["oe-render", "--cluster=slurm", *(f"--set={text}" for text in (*given, *settings))],
        input="model_path,task_path,n_shot\n" + models,
        capture_output=True,
        text=True,
        env=clean_environment(base),
        check=True,
    )
    return Path(json.loads(done.stdout)["run_dir"])


@pytest.fixture(scope="module")
def fours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with four workers on a node: shards 0 to 3, then 4 and 5."""
    return render(tmp_path_factory.mktemp("whole nodes"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with two workers of two GPUs on a node."""
    return render(tmp_path_factory.mktemp("whole nodes"), "tp=2")


class Job:
    """The script running as an array element."""

    def __init__(
        self,
        run_dir: Path,
        arguments: tuple[str, ...] = (),
        ends: dict[str, tuple[int, bool]] | None = None,
        **environment: str,
    ) -> None:
        self._run_dir = run_dir
        self._calls = run_dir / "scontrol.calls"
        for path in (self._calls, *run_dir.glob("shard.*"), *run_dir.glob("slurm_logs/*")):
            path.unlink(missing_ok=True)
        base = run_dir.parent.parent
        given = clean_environment(base)
        slurm = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "0"}
        stubs = {"SCONTROL_CALLS": str(self._calls), "ENDS": json.dumps(ends or {})}
        given |= slurm | stubs | environment | {"PATH": f"{base}/bin:{given['PATH']}"}
        self._process = subprocess.Popen(
            # nohup would make HUP ignored, and Bash cannot trap an ignored signal.
            ["env", "--default-signal=HUP", "bash", run_dir / "submit_evals.sbatch", *arguments],
            env=given,
            cwd=run_dir,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, name: str, *shards: int) -> None:
        """Send the script a signal as soon as the workers of these shards wait for one."""
        deadline = time.monotonic() + 20
        while set(shards) - set(self.seen()):
            assert time.monotonic() < deadline, self.seen()
            time.sleep(0.01)
        self._process.send_signal(getattr(signal, f"SIG{name}"))

    def end(self) -> tuple[int, str, str]:
        """Return the exit status of the script, how scontrol was called, and what it said."""
        _, said = self._process.communicate(timeout=20)
        calls = self._calls.read_text() if self._calls.exists() else ""
        return self._process.returncode, calls, said

    def seen(self) -> dict[int, dict[str, Any]]:
        """Return what the worker of each shard was given."""
        paths = self._run_dir.glob("shard.?")
        return {int(path.suffix[1:]): json.loads(path.read_text()) for path in paths}

    def gpus(self) -> dict[int, dict[str, str]]:
        return {shard: seen["gpus"] for shard, seen in sorted(self.seen().items())}


def test_each_worker_has_a_gpu_of_those_that_slurm_gave_and_a_log(fours: Path) -> None:
    job = Job(fours, **CUDA)
    assert job.end()[:2] == (0, "")
    assert job.gpus() == {shard: {"CUDA_VISIBLE_DEVICES": str(4 + shard)} for shard in range(4)}
    logs = {shard: seen["log"] for shard, seen in job.seen().items()}
    assert logs == {shard: f"{fours}/slurm_logs/4711_0.{shard}.log" for shard in range(4)}


def test_workers_share_the_cpus_of_the_job_evenly(pairs: Path) -> None:
    allowed = os.sched_getaffinity(0)
    job = Job(pairs, **CUDA)
    assert job.end()[0] == 0
    first, second = (set(seen["cpus"]) for _, seen in sorted(job.seen().items()))
    # The last CPU of an odd number is left over.
    assert len(first) == len(second) == len(allowed) // 2
    assert (first | second <= allowed, first & second) == (True, set())


def test_models_that_are_split_have_their_gpus_together(pairs: Path) -> None:
    # The second element, by the offset; names of parts of a GPU go as they came.
    names = "MIG-4b1c,GPU-5d2e,2,MIG-7/1/0"
    job = Job(pairs, ("1",), CUDA_VISIBLE_DEVICES=names)
    assert job.end()[0] == 0
    assert job.gpus() == {
        2: {"CUDA_VISIBLE_DEVICES": "MIG-4b1c,GPU-5d2e"},
        3: {"CUDA_VISIBLE_DEVICES": "2,MIG-7/1/0"},
    }


@pytest.mark.parametrize("name", ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
def test_gpus_of_another_vendor_have_another_variable(pairs: Path, name: str) -> None:
    # What counts from the devices that the first one leaves must not reach a worker.
    job = Job(pairs, **{name: "2,3,4,5", "GPU_DEVICE_ORDINAL": "0,1,2,3"})
    assert job.end()[0] == 0
    assert job.gpus() == {0: {name: "2,3"}, 1: {name: "4,5"}}


def test_the_last_element_has_fewer_workers(fours: Path) -> None:
    job = Job(fours, **CUDA, SLURM_ARRAY_TASK_ID="1")
    assert job.end()[0] == 0
    assert list(job.gpus()) == [4, 5]


@pytest.mark.parametrize(
    ("gpus", "got"),
    [({}, "none"), ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, "CUDA_VISIBLE_DEVICES=0,1,2")],
)
def test_fewer_gpus_than_the_workers_need_are_told(
    fours: Path, gpus: dict[str, str], got: str
) -> None:
    job = Job(fours, **gpus)
    assert job.end() == (3, "", f"expected 4 GPUs for 4 workers, got {got}\n")
    assert job.seen() == {}


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, [{}, {}]),
        # A worker without a GPU takes none of another's.
        (
            {"CUDA_VISIBLE_DEVICES": "4,5"},
            [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": ""}],
        ),
    ],
)
def test_workers_that_may_compute_on_the_cpu_start_without_gpus(
    tmp_path: Path, given: dict[str, str], seen: list[dict[str, str]]
) -> None:
    job = Job(render(tmp_path / "base", "tp=2", "allow_cpu=true"), **given)
    status, _, said = job.end()
    assert status == 0, said
    assert list(job.gpus().values()) == seen


@pytest.mark.parametrize(
    ("name", "statuses", "expected", "requeued"),
    [
        # One has finished before, one has failed, two have rows left.
        ("USR1", [0, 1, 75, 75], 75, True),
        ("USR1", [0, 0, -9, 75], 75, True),
        ("USR1", [0, 0, 1, 0], 1, False),
        ("TERM", [0, 1, 75, 75], 75, False),
        ("INT", [130, 130, 130, 130], 130, False),
        ("HUP", [0, 0, 130, 130], 130, False),
    ],
)
def test_all_workers_are_told_and_one_with_rows_left_requeues_the_job(
    fours: Path, name: str, statuses: list[int], expected: int, requeued: bool
) -> None:
    # The first one is through when the signal comes.
    ends = {str(shard): (status, shard > 0) for shard, status in enumerate(statuses)}
    job = Job(fours, ends=ends, **CUDA)
    job.tell(name, 0, 1, 2, 3)
    status, calls, said = job.end()
    assert status == expected
    assert calls == ("requeue 4711_0\n" if requeued else "")
    assert said.endswith("job 4711_0 requeues itself\n") == requeued
    told = [seen["signal"] for _, seen in sorted(job.seen().items())]
    assert told == [0, *[getattr(signal, f"SIG{name}")] * 3]


def test_a_worker_that_dies_does_not_take_the_others_with_it(fours: Path) -> None:
    ends = {"0": (-signal.SIGKILL, False), "1": (3, False), "2": (0, True)}
    job = Job(fours, ends=ends, **CUDA)
    # Long after that the others go on.
    time.sleep(0.3)
    job.tell("USR1", 0, 1, 2, 3)
    assert job.end()[:2] == (128 + signal.SIGKILL, "")
    assert job.seen()[2]["signal"] == signal.SIGUSR1
