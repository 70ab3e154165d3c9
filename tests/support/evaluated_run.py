"""A run of a tiny model on copies of the demonstration's tasks, evaluated on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support.processes import DEMO_TASKS, Run, rows_of

TASKS = ("oellm_choice", "oellm_prose")


class EvaluatedRun:
    """Rows of models and tasks of its own in a run directory, evaluated on a cluster.

    Attributes:
        models: The directories of the models.
        tasks: The directory of the tasks.
        path: The run directory.
    """

    def __init__(
        self, run: Run, directory: Path, model: Path, *options: str, cluster: str = "local"
    ) -> None:
        self._run = run
        output = f"--set=eval_output_dir={directory}/out"
        self._options = (f"--cluster={cluster}", output, *options)
        self.tasks = directory / "tasks"
        shutil.copytree(DEMO_TASKS, self.tasks, ignore=shutil.ignore_patterns("__pycache__"))
        self.models = [directory / "models" / name for name in ("iter_1", "iter_2")]
        for target in self.models:
            shutil.copytree(model, target)
        self.path = directory / "run"

    def render(self, *tasks: str, models: int = 1, limit: int = 4) -> Path:
        """Render the rows of the first models; return the run directory."""
        given = ",".join(map(str, self.models[:models]))
        rows = self._run(
            *("oe-manifest", f"--models={given}", f"--tasks={','.join(tasks or TASKS)}"),
            *("--n_shot=0", f"--limit={limit}", f"--include_path={self.tasks}"),
            *("--log_samples=true",),
        )
        self._run("oe-render", *self._options, f"--run_dir={self.path}", stdin=rows.stdout)
        return self.path

    def submit(self, *options: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run oe-submit."""
        return self._run("oe-submit", *options, self.path, **how)

    def rows(self) -> list[dict[str, str]]:
        """Return jobs.csv."""
        return rows_of((self.path / "jobs.csv").read_text())

    def results(self) -> dict[str, dict[str, Any]]:
        """Return our record of each row's result, by model and task."""
        found = {}
        for row in self.rows():
            path = self.path / "results" / f"{row['eval_id']}.json"
            if path.exists():
                name = f"{Path(row['model_path']).name} {row['task_path']}"
                found[name] = json.loads(path.read_text())["oellm"]
        return found

    def finished(self) -> dict[str, str]:
        """Return when each row was evaluated."""
        return {name: record["timing"]["finished"] for name, record in self.results().items()}

    def set_aside(self) -> list[str]:
        """Return the names of all results and samples that were set aside, without their times."""
        names = [path.name for path in self.path.glob("[rs][ea][sm]*/*.stale-*")]
        return sorted(name.partition(".stale-")[0].partition(".")[2] for name in names)


def overwrite_weights(model: Path, seed: int = 1) -> None:
    """Give a model other weights of the same shapes, with the sizes and times of its files."""
    (weights,) = model.glob("*.safetensors")
    status = weights.stat()
    content = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    # Bytes change their places by fours, so that each number stays one.
    body = content[start:]
    turn = 4 * (seed * 997)
    content[start:] = body[turn:] + body[:turn]
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
