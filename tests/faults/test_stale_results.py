"""What a result was computed from changes: it is named, set aside and evaluated again, alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.evaluated_run import EvaluatedRun, overwrite_weights
from support.processes import Run, rows_of

# Evaluates with a model.
pytestmark = pytest.mark.slow


@pytest.fixture
def evaluated(run: Run, tmp_path: Path, tiny_model: Path) -> EvaluatedRun:
    found = EvaluatedRun(run, tmp_path, tiny_model)
    found.render(models=2)
    found.submit()
    assert len(found.results()) == 4
    return found


def missing(run: Run, found: EvaluatedRun) -> list[str]:
    """Return model and task of the rows that oe-missing prints."""
    rows = rows_of(run("oe-missing", found.path).stdout)
    return [f"{Path(row['model_path']).name} {row['task_path']}" for row in rows]


def test_other_weights_make_the_results_of_their_model_stale(
    run: Run, evaluated: EvaluatedRun
) -> None:
    before, records = evaluated.finished(), evaluated.results()
    digests = {record["contents"]["model"] for record in records.values()}
    assert digests == {row["model_digest"] for row in evaluated.rows()}
    for path in evaluated.models[1].iterdir():
        path.touch()
    assert "stale" not in evaluated.submit().stderr
    overwrite_weights(evaluated.models[0])
    model = evaluated.models[0]

    planned = evaluated.submit("--dry_run")
    assert f"2 results of {model}: weights changed; would be evaluated again" in planned.stderr
    assert evaluated.finished() == before
    status = run("oe-status", "--format=jsonl", evaluated.path, status=75)
    states = [json.loads(line) for line in status.stdout.splitlines()]
    assert [(row["state"], row["reason"]) for row in states] == [
        ("not submitted", "stale: weights changed; oe-submit evaluates it again"),
        ("not submitted", "stale: weights changed; oe-submit evaluates it again"),
        ("done", ""),
        ("done", ""),
    ]
    assert missing(run, evaluated) == ["iter_1 oellm_choice", "iter_1 oellm_prose"]
    run("oe-missing", "--check", evaluated.path, status=1)

    done = evaluated.submit()
    assert f"2 results of {model}: weights changed; set aside, to be evaluated again" in done.stderr
    after = evaluated.finished()
    assert {name for name in after if after[name] != before[name]} == {
        "iter_1 oellm_choice",
        "iter_1 oellm_prose",
    }
    assert evaluated.set_aside() == ["json", "json", "jsonl", "jsonl"]
    assert missing(run, evaluated) == []
    changed = evaluated.results()["iter_1 oellm_prose"]
    assert changed["contents"]["model"] not in digests
    assert changed["metrics"] != records["iter_1 oellm_prose"]["metrics"]


def test_accepted_results_are_kept_by_all_later_commands(run: Run, evaluated: EvaluatedRun) -> None:
    before = evaluated.finished()
    overwrite_weights(evaluated.models[0])
    done = evaluated.submit("--accept_stale")
    assert f"2 results of {evaluated.models[0]}: weights changed; kept" in done.stderr
    assert evaluated.finished() == before
    assert evaluated.set_aside() == []
    run("oe-status", evaluated.path)
    run("oe-missing", "--check", evaluated.path)
    assert "weights" not in evaluated.submit().stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_definition(tasks: Path) -> None:
    edit(tasks / "oellm_choice.yaml", "Question: ", "Q: ")


def change_version(tasks: Path) -> None:
    edit(tasks / "oellm_choice.yaml", "version: 1.0", "version: 2.0")


def change_data(tasks: Path) -> None:
    edit(tasks / "oellm_choice.jsonl", "How many legs does a spider", "How many arms does a squid")


def test_a_changed_task_is_evaluated_again_alone(evaluated: EvaluatedRun) -> None:
    before = evaluated.finished()
    change_definition(evaluated.tasks)
    done = evaluated.submit()
    text = "2 results: task oellm_choice changed"
    assert f"{text}; set aside, to be evaluated again" in done.stderr
    after = evaluated.finished()
    assert {name for name in after if after[name] != before[name]} == {
        "iter_1 oellm_choice",
        "iter_2 oellm_choice",
    }
    assert "again" not in evaluated.submit("--dry_run").stderr

    change_data(evaluated.tasks)
    assert text in evaluated.submit("--dry_run").stderr
    change_version(evaluated.tasks)
    planned = evaluated.submit("--dry_run").stderr
    assert "2 results: task oellm_choice: version 1.0 → 2.0; would be evaluated again" in planned
    # All tasks that name a function depend on its code.
    edit(evaluated.tasks / "local_data.py", '["split"] == split', '["split"] == split and d')
    planned = evaluated.submit("--dry_run").stderr
    assert "2 results: task oellm_prose changed; would be evaluated again" in planned
