"""Tests on real Slurm and Apptainer: the project's dev cluster, and an image for these tests.

If the machine lacks something, the tests skip and say what. With CI=true in the environment they
fail instead, so a green run has really run them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import DEMO_TASKS, ROOT, Run, runner


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip, or fail in CI, if scripts/install-cluster would install something."""
    check = subprocess.run(
        [ROOT / "scripts" / "install-cluster", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    reason = "; ".join((check.stdout + check.stderr).split("\n")).strip("; ")
    if check.returncode == 0 and os.geteuid() != 0:
        check.returncode, reason = 3, "only root can start the dev cluster"
    if check.returncode != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            f"{reason} (scripts/install-cluster installs it)"
        )


@pytest.fixture(scope="session")
def image(tools: None) -> Path:
    """Build the shipped CPU definition, or take the image from the cache."""
    built = subprocess.run(
        [ROOT / "scripts" / "build-test-image"], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(built.stdout.strip())


@pytest.fixture(scope="session")
def slurm_conf(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a Slurm with two nodes, and stop it after the last test."""
    directory = tmp_path_factory.mktemp("slurm")
    dev_cluster = ROOT / "scripts" / "dev-cluster"
    subprocess.run([dev_cluster, "up", "--dir", directory], check=True)
    yield directory / "slurm.conf"
    subprocess.run([dev_cluster, "down", "--dir", directory], check=True)


class Cluster:
    """The dev cluster as a user of oellm sees it: its description, and commands run for it."""

    def __init__(self, run: Run, tmp_path: Path, slurm_conf: Path, image: Path) -> None:
        self._run = run
        # Nothing may trip over the name of the shared directory.
        self.base = tmp_path / "shared é $HOME d'ir %j #1"
        self.base.mkdir()
        description = {
            "partition": "gpu",
            "cpus_per_task": 1,
            "mem": "1800M",
            "time_limit": "00:20:00",
            "shard_time": "0",
            "eval_base_dir": str(self.base),
            "images": {"lm_eval": str(image)},
            "env": {"OMP_NUM_THREADS": "1"},
        }
        config = tmp_path / "clusters.json"
        config.write_text(json.dumps({"clusters": {"dev": description}}))
        self.env = {
            "SLURM_CONF": str(slurm_conf),
            "OELLM_CONFIG": str(config),
            "OELLM_CLUSTER": "dev",
        }

    def run(self, *command: str | Path, stdin: str = "", status: int = 0) -> str:
        return self.call(*command, stdin=stdin, status=status).stdout

    def call(
        self, *command: str | Path, stdin: str = "", status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        return self._run(*command, stdin=stdin, status=status, env=self.env)

    def manifest(self, models: Path, tasks: str, *options: str) -> str:
        return self.run(
            *("oe-manifest", "--models", models, "--tasks", tasks, *options),
            *("--include_path", DEMO_TASKS, "--batch_size=4"),
        )

    def submitted(self, rows: str, *render_options: str) -> dict[str, object]:
        """Render and submit rows; return the run object."""
        record: dict[str, object] = json.loads(
            self.run("oe-submit", stdin=self.run("oe-render", *render_options, stdin=rows))
        )
        return record

    def queue(self) -> list[str]:
        return self.run("squeue", "--noheader", "--array", "--format=%F_%K %T").split("\n")[:-1]

    def wait(self, seconds: float = 300) -> None:
        """Wait until the queue is empty."""
        deadline = time.monotonic() + seconds
        while queue := self.queue():
            assert time.monotonic() < deadline, queue
            time.sleep(0.5)

    def stop(self) -> None:
        """Cancel all jobs, and wait until the queue is empty."""
        self.run("scancel", "--user=root")
        self.wait(60)

    def job(self, job_id: object, shard: int) -> dict[str, str]:
        """Return what Slurm says about one array element."""
        text = self.run("scontrol", "show", "job", f"{job_id}_{shard}", "--oneliner")
        return dict(word.split("=", 1) for word in text.split() if "=" in word)


@pytest.fixture
def cluster(run: Run, tmp_path: Path, slurm_conf: Path, image: Path) -> Iterator[Cluster]:
    made = Cluster(run, tmp_path, slurm_conf, image)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shared_cluster(
    tmp_path_factory: pytest.TempPathFactory, slurm_conf: Path, image: Path
) -> Iterator[Cluster]:
    """Return the dev cluster for a module whose tests may have jobs at the same time."""
    directory = tmp_path_factory.mktemp("cluster")
    made = Cluster(runner(directory), directory, slurm_conf, image)
    yield made
    made.stop()
