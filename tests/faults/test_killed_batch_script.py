"""A batch script that is killed alone takes its worker along: Slurm may kill nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oellm.runs.heartbeat import read_heartbeats
from support.faulty_model import FaultyModel
from support.process_tree import is_alive
from support.processes import DEMO_TASKS, Run, clean_environment

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("parent", ["script", "runtime"])
def test_the_worker_stops_in_order(run: Run, tiny_model: Path, tmp_path: Path, parent: str) -> None:
    model = FaultyModel(tiny_model, tmp_path / "slow")
    model.set_pace(1)
    rows = "model_path,task_path,n_shot,include_path,trust_remote_code\n"
    rows += f"{model.directory},oellm_choice,0,{DEMO_TASKS},true\n"
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    # A container's runtime stays between the script and the worker.
    stay = "exec" if parent == "script" else ""
    (venv / "python").write_text(f'#!/bin/bash\n{stay} {sys.executable} "$@"\nexit $?\n')
    (venv / "python").chmod(0o755)
    rendered = run("oe-render", "--cluster=local", f"--set=venv={venv.parent}", stdin=rows)
    directory = Path(json.loads(rendered.stdout)["run_dir"])
    script = subprocess.Popen(
        ["bash", directory / "submit_evals.sbatch", "0", directory],
        env=clean_environment(tmp_path / "home", {"SLURM_ARRAY_TASK_ID": "0"}),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not model.batches():
        assert script.poll() is None
        time.sleep(0.1)
    worker = read_heartbeats(directory)[0].pid
    os.kill(script.pid, signal.SIGKILL)
    assert script.stderr is not None
    # The worker and its processes hold the pipe until they have ended.
    said = script.stderr.read()
    script.wait()
    assert not is_alive(worker)
    assert "stopped by SIGTERM; some answers of unfinished rows are kept" in said
    assert read_heartbeats(directory)[0].state.ended == "stopped by SIGTERM"
    assert len(model.batches()) < 20
