"""A worker that was given GPUs and cannot use them ends before it loads a model.

The machine of these tests has no GPU. Only the setting allow_cpu tells a worker that this is meant.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from oellm.core.processes.stop_signals import StopSignals
from oellm.manifest.model_key import model_key
from oellm.manifest.rows import Row, identify_row
from oellm.runs.heartbeat import HeartbeatWriter, read_heartbeats
from oellm.runs.result_store import ResultStore
from oellm.runs.stages.stage_store import StageStore
from oellm.worker import gpu_check
from oellm.worker.gpu_check import GpuDemand
from oellm.worker.model_service import ModelService
from oellm.worker.row_contents import RowContents
from oellm.worker.row_ledger import Sinks, Stores
from oellm.worker.row_scheduler import RunOptions
from oellm.worker.worker import Worker
from support.processes import DEMO_TASKS, Run

pytestmark = pytest.mark.skipif(
    any(map(os.path.exists, ("/dev/nvidia0", "/dev/kfd"))), reason="the machine has a GPU"
)

GIVEN = "the GPU that the worker was given cannot be used: this machine shows none"


def render(run: Run, model: Path | str, *settings: str) -> Path:
    rows = f"model_path,task_path,n_shot,include_path\n{model},oellm_choice,0,{DEMO_TASKS}\n"
    given = ("gpus_per_node=1", *settings)
    command = ("oe-render", "--cluster=local", *(f"--set={text}" for text in given))
    return Path(json.loads(run(*command, "--run_dir=run", stdin=rows).stdout)["run_dir"])


def test_a_worker_without_its_gpu_gives_its_rows_back(run: Run) -> None:
    directory = render(run, "acme/never-loaded")
    started = time.monotonic()
    done = run("oe-run-task", f"--run_dir={directory}", "--shard=0", status=3)
    # Some seconds; loading the framework alone takes longer than this on a busy machine.
    assert time.monotonic() - started < 30
    assert GIVEN in done.stderr
    for sight in ("no nvidia-smi", "no rocm-smi", "no /dev/nvidia*, no /dev/kfd"):
        assert sight in done.stderr
    assert "no variable names GPUs" in done.stderr
    assert "0 rows evaluated, 0 already had results, 0 failed, 1 left" in done.stderr
    assert not (directory / "failures").exists()
    beat = read_heartbeats(directory)[0]
    assert beat.state.ended == "stopped: its node is unusable"
    assert beat.state.unusable.startswith(GIVEN)
    assert (beat.state.failed, beat.attempt.gpus) == (0, 1)


def test_the_local_executor_says_why_its_worker_ended(run: Run) -> None:
    directory = render(run, "acme/never-loaded")
    env = {"CUDA_VISIBLE_DEVICES": "0"}
    done = run("oe-submit", "--executor=local", directory, env=env, status=1)
    said = f"is unusable: {GIVEN} (CUDA_VISIBLE_DEVICES=0; "
    assert f"oe-submit: shard 0: {socket.gethostname()} {said}" in done.stderr
    assert "oe-submit: shard 0: exit status 3; log: " in done.stderr


@pytest.mark.parametrize("variable", ["", "NoDevFiles", "-1"])
def test_a_variable_that_hides_the_gpu_is_named(run: Run, variable: str) -> None:
    directory = render(run, "acme/never-loaded")
    env = {"CUDA_VISIBLE_DEVICES": variable}
    command = ("oe-run-task", f"--run_dir={directory}", "--shard=0")
    done = run(*command, env=env, status=3)
    assert f"cannot be used: CUDA_VISIBLE_DEVICES={variable} names none of them" in done.stderr


@pytest.mark.parametrize("way", ["slurm", "variable"])
def test_slurm_or_a_variable_may_give_the_gpu(run: Run, way: str) -> None:
    env = {"SLURM_JOB_GPUS": "0"} if way == "slurm" else {"CUDA_VISIBLE_DEVICES": "0"}
    if way == "slurm":
        # Rows on stdin, in somebody's own job.
        rows = "model_path,task_path,n_shot\nacme/never-loaded,oellm_choice,0\n"
        done = run("oe-run-task", "--output_dir=out", stdin=rows, env=env, status=3)
    else:
        directory = render(run, "acme/never-loaded", "gpus_per_node=")
        command = ("oe-run-task", f"--run_dir={directory}", "--shard=0")
        done = run(*command, env=env, status=3)
    assert GIVEN in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["setting", "column"])
def test_a_worker_may_compute_on_the_cpu_if_that_is_asked_for(
    run: Run, tiny_model: Path, way: str
) -> None:
    model = f'"{tiny_model},device=cpu"' if way == "column" else tiny_model
    directory = render(run, model, *(["allow_cpu=true"] if way == "setting" else []))
    done = run("oe-run-task", f"--run_dir={directory}", "--shard=0")
    warning = f"oe-run-task: WARNING: computing on the CPU, because allow_cpu is set: {GIVEN}\n"
    assert (warning in done.stderr) == (way == "setting")
    assert "1 rows evaluated" in done.stderr
    assert read_heartbeats(directory)[0].state.unusable == ""


@pytest.fixture
def row(tiny_model: Path) -> Row:
    cells = {"model_path": str(tiny_model), "task_path": "oellm_choice", "n_shot": "0"}
    return identify_row(Row(cells | {"include_path": str(DEMO_TASKS)}))


@pytest.mark.slow
def test_torch_is_asked_before_the_model_is_loaded(row: Row) -> None:
    said: list[str] = []
    contents = RowContents(None, said.append)
    service = ModelService(None, contents, said.append, status=None, gpus=GpuDemand(1))
    service.load(model_key(row), row)
    try:
        while not service.unusable:
            service.receive()
            assert service.loading or service.unusable
    finally:
        service.kill()
    assert service.unusable.startswith("torch ")
    assert " sees 0 of them: " in service.unusable
    assert not service.unloadable
    assert said == []


@pytest.mark.slow
def test_what_torch_says_ends_the_worker_too(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container that shows the devices, and lacks the driver's libraries.
    monkeypatch.setattr(gpu_check, "find_obstacle", lambda _: "")
    said: list[str] = []
    sinks = Sinks(
        emit=lambda _: None,
        log=said.append,
        status=None,
        heartbeat=HeartbeatWriter(tmp_path, 0, 1),
    )
    options = RunOptions(bootstrap_iters=0, provenance={}, start_s=0.0, gpus=GpuDemand(1))
    with StopSignals() as signals:
        stores = Stores(ResultStore(tmp_path), StageStore(tmp_path))
        worker = Worker(stores, sinks, signals=signals, options=options)
        counts = worker.run([row])
    assert (counts.done, counts.failed, counts.left) == (0, 0, 1)
    assert counts.halt is not None
    assert counts.halt.is_unusable
    assert " sees 0 of them: " in counts.halt.reason
    assert read_heartbeats(tmp_path)[0].state.unusable == counts.halt.reason
    assert not (tmp_path / "failures").exists()


def test_what_a_moments_look_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    root = str(tmp_path)
    devices = tmp_path / "dev"
    devices.mkdir()
    assert gpu_check.find_obstacle(1, root) == "this machine shows none"
    (devices / "nvidia0").touch()
    assert "is the driver installed?" in gpu_check.find_obstacle(1, root)
    monkeypatch.setenv("APPTAINER_CONTAINER", "/x.sif")
    assert "is --nv missing in container_args?" in gpu_check.find_obstacle(1, root)
    assert gpu_check.describe_sight(root).endswith("; in the container /x.sif")
    # Whether AMD's GPUs can be used, torch must say.
    (devices / "kfd").touch()
    assert gpu_check.find_obstacle(1, root) == ""
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "3")
    assert "ROCR_VISIBLE_DEVICES=3 names 1 of them" in gpu_check.find_obstacle(2, root)


def test_what_a_tool_answers_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho; echo NVIDIA-SMI has failed; exit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "nvidia-smi (status 9): NVIDIA-SMI has failed" in gpu_check.describe_sight()
