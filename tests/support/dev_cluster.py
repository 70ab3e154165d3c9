"""The dev cluster, as tests on real Slurm use it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.processes import DEMO_TASKS, Run


class DevCluster:
    """The dev cluster as a user of oellm sees it: its description, and commands run for it."""

    def __init__(self, run: Run, tmp_path: Path, slurm_conf: Path, image: Path) -> None:
        self._run = run
        # Nothing may trip over the name of the shared directory.
        self.base = tmp_path / "shared é $HOME d'ir %j #1"
        self.base.mkdir()
        description: dict[str, Any] = {
            "partition": "gpu",
            "cpus_per_gpu": 1,
            "cpus_per_task": 1,
            "mem": "1800M",
            "time_limit": "00:20:00",
            "shard_time": "0",
            "eval_base_dir": str(self.base),
            "images": {"lm_eval": str(image)},
            "env": {"OMP_NUM_THREADS": "1"},
            # Its GPUs are files without a device.
            "allow_cpu": True,
        }
        self._description = description
        self._config = config = tmp_path / "clusters.json"
        self.add_settings()
        self.env = {
            "SLURM_CONF": str(slurm_conf),
            "OELLM_CONFIG": str(config),
            "OELLM_CLUSTER": "dev",
        }

    def add_settings(self, *, images: Mapping[str, str] | None = None, **settings: Any) -> None:
        """Change the description of the cluster; images are added to those that are there."""
        self._description |= settings
        self._description["images"] |= images or {}
        self._config.write_text(json.dumps({"clusters": {"dev": self._description}}))

    def run(self, *command: str | Path, stdin: str = "", status: int = 0) -> str:
        return self.call(*command, stdin=stdin, status=status).stdout

    def call(
        self,
        *command: str | Path,
        stdin: str = "",
        status: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return self._run(*command, stdin=stdin, status=status, env={**self.env, **(env or {})})

    def manifest(self, models: str | Path, tasks: str, *options: str) -> str:
        return self.run(
            *("oe-manifest", "--models", models, "--tasks", tasks, *options),
            *("--include_path", DEMO_TASKS, "--batch_size=4"),
        )

    def submitted(self, rows: str, *render_options: str) -> dict[str, Any]:
        """Render and submit rows; return the run object."""
        record: dict[str, Any] = json.loads(
            self.run("oe-submit", stdin=self.run("oe-render", *render_options, stdin=rows))
        )
        return record

    def queue(self) -> list[str]:
        return self.run("squeue", "--noheader", "--array", "--format=%F_%K %T").split("\n")[:-1]

    def wait(self, seconds: float = 600) -> None:
        """Wait until the queue is empty."""
        deadline = time.monotonic() + seconds
        while queue := self.queue():
            assert time.monotonic() < deadline, queue
            time.sleep(0.5)

    def stop(self) -> None:
        """Cancel all jobs, and wait until the queue is empty."""
        self.run("scancel", "--user=root")
        self.wait(180)

    def job(self, job_id: object, shard: int) -> dict[str, str]:
        """Return what Slurm says about one array element."""
        text = self.run("scontrol", "show", "job", f"{job_id}_{shard}", "--oneliner")
        return dict(word.split("=", 1) for word in text.split() if "=" in word)
