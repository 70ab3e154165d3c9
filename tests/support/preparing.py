"""Preparing tasks with oe-run-task, as oe-fetch does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.hub import Hub
from support.processes import BIN, Run, clean_environment

HEADER = "model_path,task_path,n_shot,include_path"


class Preparing:
    """Calls of oe-run-task that prepare tasks for one account from one hub."""

    def __init__(self, run: Run, root: Path, hub: Hub) -> None:
        self._run = run
        self.hf_home = root / "hf"
        self.environment = {"HF_HOME": str(self.hf_home), **hub.environment}
        self.messages = ""

    def __call__(self, option: str, manifest: str, status: int | None = 0) -> list[dict[str, Any]]:
        done = self._run(
            *("oe-run-task", option), stdin=manifest, env=self.environment, status=status
        )
        self.messages = done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, manifest: str) -> subprocess.Popen[str]:
        """Start a process that fetches tasks, in its own process group."""
        process = subprocess.Popen(
            [BIN / "oe-run-task", "--fetch_tasks"],
            env=clean_environment(self.hf_home.parent, self.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(manifest)
        process.stdin.close()
        process.stdin = None
        return process


@pytest.fixture
def preparing(run: Run, tmp_path: Path, hub: Hub) -> Preparing:
    return Preparing(run, tmp_path, hub)
