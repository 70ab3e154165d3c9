"""Weights, a task's file and its data change between submissions; the run directory moves."""

from __future__ import annotations

import sys
from pathlib import Path

from support.dev_cluster import DevCluster
from support.evaluated_run import EvaluatedRun, overwrite_weights

HERE = (f"--set=venv={sys.prefix}", "--set=container_runtime=none")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def evaluated(found: EvaluatedRun, cluster: DevCluster) -> tuple[str, set[str]]:
    """Submit a run; return the messages, and the rows that were evaluated."""
    before = found.finished()
    messages = found.submit().stderr
    cluster.wait()
    after = found.finished()
    assert len(after) == 4
    return messages, {name for name in after if after[name] != before.get(name)}


def test_only_what_changed_is_evaluated_again(
    shared_cluster: DevCluster, tmp_path: Path, tiny_model: Path
) -> None:
    found = EvaluatedRun(shared_cluster.call, tmp_path, tiny_model, *HERE, cluster="dev")
    found.render(models=2)
    assert len(evaluated(found, shared_cluster)[1]) == 4

    overwrite_weights(found.models[0])
    messages, rows = evaluated(found, shared_cluster)
    assert f"2 results of {found.models[0]}: weights changed; set aside" in messages
    assert rows == {"iter_1 oellm_choice", "iter_1 oellm_prose"}

    # The run goes on in the place that it is moved to.
    found.path = found.path.rename(tmp_path / "moved %j")
    edit(found.tasks / "oellm_choice.yaml", "Question: ", "Q: ")
    edit(found.tasks / "oellm_prose.jsonl", " the ", " The ")
    messages, rows = evaluated(found, shared_cluster)
    assert "2 results: task oellm_choice changed; set aside" in messages
    assert "2 results: task oellm_prose changed; set aside" in messages
    assert len(rows) == 4
    assert not (tmp_path / "run").exists()
    assert len(list((found.path / "slurm_logs").glob("*.log"))) == 5

    assert "all 4 rows have results" in found.submit().stderr
