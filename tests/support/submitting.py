"""Runs to submit, stand-ins for Slurm, and workers that are scripts of a test."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.processes import BIN, ROOT, Run, clean_environment

HEADER = "model_path,task_path,n_shot\n"


class FakeSlurm:
    """Executables that stand in for sbatch, squeue and the like, and what they note."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {
            "FAKE_SLURM": str(directory),
            "PATH": f"{ROOT}/tests/fake_slurm:{clean_environment(directory)['PATH']}",
        }

    def says(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def queue(self) -> list[str]:
        """Return job and index of each element in the queue."""
        lines = (self.directory / "queue").read_text().splitlines()
        return [" ".join(line.split("|")[:2]) for line in lines]

    def has_queued(self, *elements: str) -> None:
        """Put elements into the queue, each as `JOB INDEX [ACCOUNT QOS [COMMENT]]`."""
        lines = (queue_line(*element.split(" ", 4)) for element in elements)
        self.says("queue", "".join(lines))

    def submitted(self) -> list[str]:
        """Return the array of each submission since the last call."""
        path = self.directory / "sbatch.arguments"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.removeprefix("--array=") for line in lines if line.startswith("--array=")]


def queue_line(
    job: str, index: str, account: str = "acme", qos: str = "normal", comment: str = "(null)"
) -> str:
    """Return the line of squeue for an element that waits."""
    return f"{job}|{index}|PENDING|Priority||0|0|N/A|N/A|{account}|{qos}|{comment}|\n"


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    directory = tmp_path / "fake-slurm"
    directory.mkdir()
    return FakeSlurm(directory)


@pytest.fixture
def rendered(run: Run, tmp_path: Path) -> dict[str, Any]:
    """Render a run of four shards with two rows each; its worker is a script of the test."""
    rows = "".join(f"acme/m{model},t{task},0\n" for model in range(4) for task in range(2))
    settings = [f"--set={text}" for text in (f"eval_base_dir={tmp_path}/base", "shard_time=0")]
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    settings.append(f"--set=venv={tmp_path}/venv")
    done = run("oe-render", "--cluster=slurm", *settings, stdin=HEADER + rows)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def finish(record: dict[str, Any], *shards: int) -> None:
    """Write a valid result for each row of some shards, as a worker would."""
    path = Path(record["run_dir"])
    for row in csv.DictReader((path / "jobs.csv").read_text().splitlines()):
        eval_id, model = row["eval_id"], row.get("model_digest", "")
        if int(row["shard"]) in shards:
            ours = {
                "eval_id": eval_id,
                "status": "done",
                "row": {"model_path": "m", "task_path": "t"},
                "contents": {"model": model} if model else {},
                "metrics": [{"task": "t", "metric": "acc", "filter": "none", "value": 1}],
            }
            (path / "results" / f"{eval_id}.json").write_text(json.dumps({"oellm": ours}))


def waiting(
    home: Path, slurm: FakeSlurm, record: dict[str, Any], *options: str
) -> subprocess.Popen[str]:
    """Start an oe-submit that waits until the run is done."""
    return subprocess.Popen(
        [BIN / "oe-submit", "--wait=done", *options, record["run_dir"]],
        env=clean_environment(home, slurm.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_it_says(process: subprocess.Popen[str], text: str) -> None:
    """Read the stderr of a process up to a line that contains a text."""
    assert process.stderr is not None
    while text not in process.stderr.readline():
        assert process.poll() is None


def fake_worker(tmp_path: Path, script: str) -> None:
    """Replace the venv's Python with a shell script; $3 is the run directory, $5 the shard."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)


def jobs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the submissions in run.json."""
    found: list[dict[str, Any]] = json.loads((Path(record["run_dir"]) / "run.json").read_text())[
        "jobs"
    ]
    return found
