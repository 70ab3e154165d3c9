"""A run that was submitted to stand-ins for Slurm's commands, and results of its rows."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from support.processes import Run, rows_of
from support.submitting import FakeSlurm

HEADER = "model_path,task_path,n_shot\n"
TASKS = ("a", "b", "c", "d")
SLURM = ("--cluster=slurm", "--set=shard_time=0")


class SubmittedRun:
    """A run of four shards with a row each, on stand-ins for Slurm's commands."""

    def __init__(self, run: Run, slurm: FakeSlurm, base: Path) -> None:
        self._run = run
        self._slurm = slurm
        self._options = (*SLURM, f"--set=eval_base_dir={base}", f"--set=venv={base}")
        (base / "bin").mkdir(parents=True)
        (base / "bin" / "python").touch(mode=0o755)
        # Models of their own, so that each has a shard of its own.
        self.manifest = HEADER + "".join(f"acme/{task},{task},0\n" for task in TASKS)
        rendered = run("oe-render", *self._options, stdin=self.manifest).stdout
        self.path = Path(json.loads(rendered)["run_dir"])
        run("oe-submit", self.path, env=slurm.env)
        (self.job_id,) = (job["job_id"] for job in self.record["jobs"])

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return record

    def edit(self, **changed: Any) -> None:
        """Change the submission in run.json."""
        record = self.record
        record["jobs"][0] |= changed
        (self.path / "run.json").write_text(json.dumps(record))

    def queue(self, *states: str) -> None:
        """Let Slurm know the first elements, in these states."""
        (comment,) = (job["comment"] for job in self.record["jobs"])
        lines = [
            f"{self.job_id}|{index}|{state}|None|n1|0|0|N/A|N/A|acme|normal|{comment}|\n"
            for index, state in enumerate(states)
        ]
        self._slurm.says("queue", "".join(lines))

    def beat(self, shard: int, age_s: float = 0, **changed: Any) -> None:
        """Write a heartbeat of a worker on another machine."""
        now = datetime.datetime.now(datetime.timezone.utc)
        updated = (now - datetime.timedelta(seconds=age_s)).isoformat()
        attempt = {"job": f"{self.job_id}_{shard}", "gpus": 1, "started": updated}
        attempt |= {"updated": updated, "scoring_s": 0.0}
        content = {
            **attempt,
            "shard": shard,
            "host": "elsewhere",
            "pid": 1,
            "process_start": 1,
            "total": 1,
            "skipped": 0,
            "done": 0,
            "failed": 0,
            "rows": [],
            "loading": "",
            "ended": "",
            "attempts": [attempt],
            **changed,
        }
        (self.path / "progress").mkdir(exist_ok=True)
        (self.path / "progress" / f"{shard}.json").write_text(json.dumps(content))

    def missing(self, *options: str, **how: Any) -> tuple[str, str]:
        """Return the tasks of the missing rows, and the messages."""
        directory = f"--in={self.path.parents[1]}"
        env = {**self._slurm.env, **how.pop("env", {})}
        given = (*self._options, *options)
        done = self._run("oe-missing", directory, *given, stdin=self.manifest, env=env, **how)
        return "".join(row["task_path"] for row in rows_of(done.stdout)), done.stderr


def write_result(run_dir: Path, task: str, **changed: Any) -> Path:
    """Write a valid result of a task's row."""
    (row,) = (
        row for row in rows_of((run_dir / "jobs.csv").read_text()) if row["task_path"] == task
    )
    metric = {"task": task, "metric": "acc", "filter": "none", "value": 0.5}
    ours = {"eval_id": row["eval_id"], "status": "done", "row": row, "metrics": [metric]}
    path = run_dir / "results" / f"{row['eval_id']}.json"
    path.write_text(json.dumps({"oellm": ours | changed}))
    return path


def write_failure(run_dir: Path, task: str) -> None:
    path = write_result(run_dir, task)
    (run_dir / "failures").mkdir(exist_ok=True)
    path.rename(run_dir / "failures" / path.name)
