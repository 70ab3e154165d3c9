"""Runs of the toy framework, whose rows have two stages, and what jobs would leave of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from oellm.frameworks.stages import GENERATE
from oellm.manifest.rows import Row, eval_id
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_record import StageRecord
from oellm.runs.stages.stage_store import StageStore
from support import toy_framework
from support.model_directories import weights
from support.processes import Run
from support.toy_framework.program import Toy
from support.toy_rows import ToyModel

HEADER = "model_path,task_path,n_shot,eval_suite\n"
_METADATA = "Metadata-Version: 2.1\nName: toy-framework\nVersion: 1.0\n"
_TOKENIZER = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}
_ENTRY_POINTS = "[oellm.frameworks]\ntoy = toy_framework\n"


def install_toy(directory: Path) -> dict[str, str]:
    """Install the toy framework for processes that get these environment variables."""
    metadata = directory / "toy_framework-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    package = Path(toy_framework.__file__).parent
    (directory / package.name).symlink_to(package)
    return {"PYTHONPATH": str(directory)}


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    """Return the rows of a run."""
    return list(csv.DictReader((run_dir / "jobs.csv").read_text().splitlines()))


def generate(run_dir: Path, *models: str) -> None:
    """Write the output of the first stage of some models' rows, as a worker would."""
    store = StageStore(run_dir)
    for cells in rows_of(run_dir):
        if cells["model_path"] in models and cells["evaluate_shard"]:
            row = Toy().generation_row(Row(cells))
            attempt = store.new_attempt(key := eval_id(row), GENERATE)
            (attempt / "found.json").write_text("{}")
            record = StageRecord(
                key=key,
                stage=GENERATE,
                row=row.cells,
                contents=Contents(),
                environment=Environment(),
                provenance={},
                timing=RowTiming(finished="2024-01-15T14:30:45+00:00"),
                files={},
            )
            store.place(attempt, record)


def render(run: Run, rows: str, env: dict[str, str], *settings: str) -> dict[str, Any]:
    """Render a run; return the run object."""
    options = [f"--set={setting}" for setting in settings]
    done = run("oe-render", "--cluster=slurm", *options, stdin=HEADER + rows, env=env)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def complete_model(directory: Path, *faults: str, seed: int = 0) -> ToyModel:
    """Write a model with which oe-manifest and oe-fetch find nothing wrong."""
    model = ToyModel(directory, weights(100, seed))
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text(json.dumps(_TOKENIZER))
    model.set_faults(*faults)
    return model
