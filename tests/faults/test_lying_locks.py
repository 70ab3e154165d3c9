"""Parallel file systems on which a lock of the operating system holds nobody up, or fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from support.hub import Fault, Hub
from support.hub_content import write_task
from support.model_directories import write_model
from support.processes import BIN, clean_environment

LOCKS = {
    "every process gets the lock": "fcntl.flock = lambda *_: None",
    "there are no locks": "def flock(*_):\n    raise OSError(38, 'no locks')\nfcntl.flock = flock",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", LOCKS.values(), ids=LOCKS.keys())
def test_two_oe_fetch_of_one_model_leave_it_whole(tmp_path: Path, hub: Hub, code: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import fcntl\n{code}\n")
    tasks = write_task(tmp_path / "tasks", "quiz")
    commit = hub.add_model("acme/a", write_model(tmp_path / "a", size=200_000))
    hub.fault("GET /acme/a/model.safetensors", Fault(bytes_per_second=50_000))
    manifest = f"model_path,task_path,n_shot,include_path\nacme/a,quiz,0,{tasks}\n"
    variables = {"OELLM_CLUSTER": "local", "HF_HOME": str(tmp_path / "hf"), **hub.environment}
    variables |= {"PYTHONPATH": str(tmp_path / "site"), "OELLM_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "manifest.csv").write_text(manifest)
    # Both begin at the same time, however long each takes to start.
    hub.answering.clear()
    processes = [
        subprocess.Popen(
            [BIN / "oe-fetch", tmp_path / "manifest.csv"],
            env=clean_environment(tmp_path, variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    hub.answering.set()
    for process in processes:
        output, messages = process.communicate(timeout=180)
        assert process.returncode == 0, messages
        assert output.splitlines()[1].startswith(f"acme/a,quiz,0,{tasks},{commit},")
    snapshot = tmp_path / "hf" / "hub" / "models--acme--a" / "snapshots" / commit
    for path in (tmp_path / "a").iterdir():
        content = (snapshot / path.name).read_bytes()
        assert hashlib.sha256(content).digest() == hashlib.sha256(path.read_bytes()).digest()
    assert sorted(os.listdir(snapshot)) == sorted(os.listdir(tmp_path / "a"))
