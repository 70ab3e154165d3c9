"""What a run has accepted, when several oe-submit look at it at different times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oellm.runs import run_directory
from oellm.runs.accepted_contents import AcceptedContents, read_accepted
from oellm.runs.run_directory import Run
from oellm.submit.array_elements import UnfinishedRows
from oellm.submit.stale_rows import StaleRows
from support.model_directories import weights, write_model
from support.processes import Run as RunCommand


@pytest.fixture
def rendered_run(tmp_path: Path, run: RunCommand) -> Run:
    """Render a run of one model, with one result that was computed from other weights."""
    model = write_model(tmp_path / "m")
    done = run(
        *("oe-render", "--cluster=local", f"--run_dir={tmp_path}/run"),
        stdin=f"model_path,task_path,n_shot\n{model},t1,0\n{model},t2,0\n",
    )
    found = run_directory.load_run(Path(json.loads(done.stdout)["run_dir"]))
    row = next(iter(found.rows()))
    ours = {
        "eval_id": row["eval_id"],
        "status": "done",
        "row": {"model_path": "m", "task_path": "t"},
        "contents": {"model": "0" * 4 + row["model_digest"][4:]},
        "metrics": [{"task": "t", "metric": "acc", "filter": "none", "value": 1}],
    }
    (found.path / "results" / f"{row['eval_id']}.json").write_text(json.dumps({"oellm": ours}))
    return found


def look(found: Run, *, accept: bool = False) -> StaleRows:
    """Look at all rows, as an oe-submit that begins."""
    stale = StaleRows(found, lambda _: None, accept=accept)
    UnfinishedRows(found, stale)
    return stale


def train_on(tmp_path: Path) -> None:
    (tmp_path / "m" / "model.safetensors").write_bytes(weights(seed=1))


@pytest.mark.parametrize("rounds", [0, 1])
def test_what_another_oe_submit_accepts_stays_accepted(
    rendered_run: Run, tmp_path: Path, rounds: int
) -> None:
    waiting = look(rendered_run)
    for _ in range(rounds):
        waiting.settle()
    train_on(tmp_path)
    look(rendered_run, accept=True).settle()
    accepted: AcceptedContents = read_accepted(rendered_run.path)
    # The waiting one has set aside the result in its first round.
    assert len(accepted.kept) == 1 - rounds
    waiting.settle()
    assert read_accepted(rendered_run.path).models == accepted.models
    assert read_accepted(rendered_run.path).kept == accepted.kept


def test_what_is_kept_stays_kept_in_later_rounds(rendered_run: Run) -> None:
    accepting, waiting = look(rendered_run, accept=True), look(rendered_run)
    accepting.settle()
    accepted = read_accepted(rendered_run.path)
    assert accepted.kept
    waiting.settle()
    assert read_accepted(rendered_run.path) == accepted
