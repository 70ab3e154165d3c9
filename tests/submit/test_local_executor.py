"""oe-submit --executor=local runs elements as processes of this machine."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.process_tree import is_alive
from support.processes import BIN, Run, clean_environment
from support.submitting import fake_worker, until_it_says

# Many processes, some of which wait.
pytestmark = pytest.mark.slow


def test_local_executor_runs_the_script_streams_progress_and_keeps_logs(
    run: Run, tmp_path: Path, rendered: dict[str, Any]
) -> None:
    fake_worker(tmp_path, 'echo "oe-run-task: here I am" >&2; echo noise >&2; exit $(($5 % 2))')
    done = run("oe-submit", "--executor=local", "--jobs=2", rendered["run_dir"], status=1)
    for shard in range(4):
        assert f"oe-submit: shard {shard}: here I am\n" in done.stderr
        log = Path(rendered["run_dir"]) / "slurm_logs" / f"local_{shard}.log"
        assert log.read_text() == "oe-run-task: here I am\nnoise\n"
    assert "noise" not in done.stderr
    assert "shard 3: exit status 1; log: " in done.stderr
    assert "0 of 8 rows have results" in done.stderr
    assert json.loads(done.stdout)["jobs"][0]["executor"] == "local"


def started(directory: str, home: Path, *options: str) -> subprocess.Popen[str]:
    """Start the local executor on two elements at a time, and wait until both are up."""
    process = subprocess.Popen(
        [BIN / "oe-submit", "--executor=local", "--jobs=2", *options, directory],
        env=clean_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for _ in range(2):
        assert "up" in process.stderr.readline()
    return process


def all_end(directory: str) -> None:
    """Wait until no worker runs."""
    pids = [int(path.read_text()) for path in Path(directory).glob("*.pid")]
    assert len(pids) == 4
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# A worker that has a child process.
SLEEPS = 'sleep 600 & echo $! >"$3/$5.child.pid"; echo $$ >"$3/$5.pid"; UP="oe-run-task: up";'


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGKILL, -9)],
)
def test_a_signal_ends_everything_that_runs(
    tmp_path: Path, rendered: dict[str, Any], number: signal.Signals, status: int
) -> None:
    fake_worker(tmp_path, SLEEPS + "trap 'kill $!; exit 75' TERM; echo $UP >&2; wait")
    process = started(rendered["run_dir"], tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=20) == status
    all_end(rendered["run_dir"])
    assert (Path(rendered["run_dir"]) / "submit.lock").exists() == (number == signal.SIGKILL)


def test_a_second_interrupt_kills_workers_that_do_not_stop(
    tmp_path: Path, rendered: dict[str, Any]
) -> None:
    fake_worker(tmp_path, SLEEPS + "trap '' TERM; echo $UP >&2; while :; do sleep 0.1; done")
    process = started(rendered["run_dir"], tmp_path)
    process.send_signal(signal.SIGINT)
    until_it_says(process, "waiting for the workers to stop; a second Ctrl-C kills them")
    time.sleep(0.8)
    assert process.poll() is None
    deadline = time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < deadline
        # An interrupt within half a second of the first counts as the same one, and a busy machine
        # may handle the first one late.
        process.send_signal(signal.SIGINT)
        time.sleep(0.6)
    assert process.returncode == 130
    all_end(rendered["run_dir"])


@pytest.mark.parametrize("source", ["variable", "tool"])
def test_a_gpu_has_one_element_at_a_time(
    run: Run, tmp_path: Path, rendered: dict[str, Any], source: str
) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "GPU-a,3,-1,7"}
    gpus = {"GPU-a", "3"}
    if source == "tool":
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'; echo 'GPU 1: A (UUID: y)'\n")
        tool.chmod(0o755)
        env = {"PATH": f"{tool.parent}:{clean_environment(tmp_path)['PATH']}"}
        gpus = {"0", "1"}
    # A worker creates a directory named after its GPU; two workers cannot both create it.
    fake_worker(
        tmp_path,
        'taken="$3/gpu-$CUDA_VISIBLE_DEVICES"; mkdir "$taken" || exit 9\n'
        'sleep 0.3; rmdir "$taken"\n'
        'echo "oe-run-task: on $CUDA_VISIBLE_DEVICES" >&2',
    )
    command = ("oe-submit", "--executor=local", "--jobs=4", rendered["run_dir"])
    done = run(*command, env=env, status=1)
    assert "exit status" not in done.stderr
    assert set(re.findall(r"shard \d: on (\S+)\n", done.stderr)) == gpus
    assert done.stderr.count(": on ") == 4


def test_an_element_that_needs_more_gpus_than_there_are_is_an_error(
    run: Run, rendered: dict[str, Any]
) -> None:
    path = Path(rendered["run_dir"]) / "run.json"
    record = json.loads(path.read_text())
    record["arrays"][0]["gpus"] = 2
    path.write_text(json.dumps(record))
    command = ("oe-submit", "--executor=local", path.parent)
    done = run(*command, env={"ROCR_VISIBLE_DEVICES": "0"}, status=3)
    message = "an element of submit_evals.sbatch needs 2 GPUs, but this machine has 1"
    assert done.stderr == f"oe-submit: {message}\n"


def test_each_worker_of_each_array_has_a_log_that_oe_status_finds(run: Run, tmp_path: Path) -> None:
    settings = (
        *(f"--set=venv={tmp_path}/venv", "--set=whole_node=true", "--set=gpus_per_node=2"),
        *("--set=shard_time=0", f"--set=eval_base_dir={tmp_path}/base"),
    )
    fake_worker(tmp_path, 'echo "shard $5 on $CUDA_VISIBLE_DEVICES" >&2')
    rendered = run(
        *("oe-render", "--cluster=slurm", *settings),
        stdin="model_path,task_path,n_shot,tp\nacme/a,t,0,1\nacme/b,t,0,1\nacme/c,t,0,2\n",
    )
    env = {"CUDA_VISIBLE_DEVICES": "4,7"}
    run("oe-submit", "--executor=local", stdin=rendered.stdout, env=env, status=1)
    directory = json.loads(rendered.stdout)["run_dir"]
    for shard, gpus in enumerate(("4", "7", "4,7")):
        found = run("oe-status", f"--log={shard}", directory)
        assert f"shard {shard} on {gpus}\n" in found.stdout
