"""oe-doctor as tests call it, and what it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from support.processes import Run
from support.submitting import FakeSlurm


class Found(NamedTuple):
    """What oe-doctor prints: its status, and its records by the name of the check."""

    status: int
    records: dict[str, dict[str, str]]
    messages: str

    def state(self, check: str) -> str:
        return self.records[check]["status"]

    def text(self, check: str) -> str:
        """Return what was found, and what to do about it."""
        return f"{self.records[check]['text']} -> {self.records[check]['remedy']}"

    def wrong(self) -> list[str]:
        """Return the names of the checks that found something wrong."""
        return [name for name, record in self.records.items() if record["status"] == "wrong"]


class Doctor:
    """Calls oe-doctor for a cluster whose settings and Slurm a test changes."""

    def __init__(self, run: Run, directory: Path, slurm: FakeSlurm) -> None:
        self._run = run
        self._config = directory / "clusters.json"
        self.base = directory / "base"
        self.base.mkdir()
        self.slurm = slurm
        self.settings: dict[str, object] = {
            "partition": "gpu",
            "time_limit": "01:00:00",
            "eval_base_dir": str(self.base),
            "container_runtime": "none",
            "venvs": {"lm_eval": str(Path(sys.executable).parent.parent)},
            "python": sys.executable,
        }
        # No hub is asked, unless a test wants that.
        self.env: dict[str, str] = {**slurm.env, "HF_HUB_OFFLINE": "1"}

    def environment(self) -> dict[str, str]:
        """Write the settings; return the variables of a call."""
        self._config.write_text(json.dumps({"clusters": {"dev": self.settings}}))
        return {**self.env, "OELLM_CONFIG": str(self._config), "OELLM_CLUSTER": "dev"}

    def __call__(self, *options: str, env: Mapping[str, str] | None = None) -> Found:
        variables = {**self.environment(), **(env or {})}
        done = self._run("oe-doctor", *options, env=variables, status=None)
        return read_found(done.returncode, done.stdout, done.stderr)


def read_found(status: int, output: str, messages: str = "") -> Found:
    """Read what oe-doctor has printed into a pipe."""
    records = {record["check"]: record for record in map(json.loads, output.splitlines())}
    assert status in (0, 1), messages
    assert status == any(record["status"] == "wrong" for record in records.values())
    for record in records.values():
        # Whatever is not right says what to do about it.
        assert record["status"] == "ok" or record["remedy"], record
    return Found(status, records, messages)
