"""The pipeline that runs every night, with a task that fails or waits as a test wants it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.processes import DEMO_TASKS, make_tiny_model, rows_of
from support.task_files import write_task

# Runs a command with stdin and the expected status, or any if that is None.
Call = Callable[..., "subprocess.CompletedProcess[str]"]

LOAD = """\
import datasets, pathlib, sys, time

# Not when oe-fetch tries the task out.
IN_A_RUN = "--run_dir" in sys.argv

def load(**_):
    here = pathlib.Path(__file__).parent
    while IN_A_RUN and (here / "hold").exists():
        time.sleep(0.1)
    if IN_A_RUN and (here / "broken").exists():
        raise ValueError("not tonight")
    documents = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    return {"test": documents}
"""


class Nightly:
    """Checkpoints below a directory, evaluated on two tasks, one of which may fail or wait."""

    def __init__(self, call: Call, base: Path) -> None:
        self._call = call
        self.output = base / "evals"
        self.checkpoints = base / "checkpoints"
        self.tasks = base / "tasks"
        # A worker of another test may have left compiled code beside the tasks.
        shutil.copytree(DEMO_TASKS, self.tasks, ignore=shutil.ignore_patterns("__pycache__"))
        (self.tasks / "tasks.py").write_text(LOAD)
        write_task(self.tasks, "moody", doc_to_choice='["a", "b"]')

    def add_checkpoint(self, step: int) -> None:
        make_tiny_model(self.checkpoints / f"iter_{step}", step)

    def set_mood(self, mood: str, is_set: bool = True) -> None:
        """Let the task `moody` wait (hold) or fail (broken) from now on, or no longer."""
        if is_set:
            (self.tasks / mood).touch()
        else:
            (self.tasks / mood).unlink()

    def manifest(self) -> str:
        return self._call(
            *("oe-manifest", "--models", self.checkpoints, "--tasks=oellm_choice,moody"),
            *("--n_shot=0", "--limit=2", "--batch_size=2", "--include_path", self.tasks),
        ).stdout

    def missing(self) -> subprocess.CompletedProcess[str]:
        return self._call("oe-missing", "--in", self.output, stdin=self.manifest())

    def render(self) -> str:
        """Do all but the last stage; return the run object."""
        fetched = self._call("oe-fetch", stdin=self.missing().stdout)
        rendered: str = self._call("oe-render", stdin=fetched.stdout).stdout
        return rendered

    def work(self, rendered: str) -> list[str]:
        """Return the rows of a run, as STEP TASK."""
        path = json.loads(rendered)["run_dir"]
        if path is None:
            return []
        return [_label(row) for row in rows_of((Path(path) / "jobs.csv").read_text())]

    def results(self) -> Counter[str]:
        """Return how many results each row has in all runs."""
        found: Counter[str] = Counter()
        for path in self.output.glob("*/*/results/*.json"):
            found[_label(json.loads(path.read_text())["oellm"]["row"])] += 1
        return found

    def runs(self) -> int:
        return len(list(self.output.glob("*/*/run.json")))


def _label(row: dict[str, str]) -> str:
    step = Path(row["model_path"].partition(",")[0]).name.removeprefix("iter_")
    return f"{step} {row['task_path']}"
