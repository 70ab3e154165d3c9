"""Accounts that fetch from a hub on loopback, or are cut off from it."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from support.hub import Hub
from support.processes import Run

HEADER = "model_path,task_path,n_shot"


class Account:
    """A user's account: a Hugging Face cache and a way to the hub, if any."""

    def __init__(self, run: Run, root: Path, hub: Hub | None) -> None:
        self.run = run
        self.home = root / "home"
        self.hf_home = root / "hf"
        self.environment = {
            "HF_HOME": str(self.hf_home),
            "OELLM_CLUSTER": "local",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **(hub.environment if hub else nowhere()),
        }

    def fetch(
        self, manifest: str, *arguments: str | Path, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        return self.run("oe-fetch", *arguments, stdin=manifest, env=self.environment, status=status)

    def snapshot(self, model: str, commit: str) -> set[str]:
        """The files of a model in the cache."""
        name = f"models--{model.replace('/', '--')}"
        directory = self.hf_home / "hub" / name / "snapshots" / commit
        return {path.relative_to(directory).as_posix() for path in directory.rglob("*.*")}


def nowhere() -> dict[str, str]:
    """The environment of a hub whose port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
