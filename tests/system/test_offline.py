"""Unmodified tasks through all commands: fetched from a hub, evaluated without it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from support.hub import Hub
from support.hub_content import (
    write_belebele,
    write_hellaswag,
    write_metric,
    write_mmlu,
    write_polemo,
)
from support.processes import INDICES, Run, rows_of


@pytest.fixture(scope="module")
def subjects() -> list[str]:
    """Return the configurations of cais/mmlu that the group mmlu loads."""
    managers = TaskManagers(TaskIndices({"OELLM_CACHE_DIR": str(INDICES)}, print))
    return [data_set.name or "" for data_set in managers.data_sets("mmlu", "")]


@pytest.mark.slow
def test_unmodified_tasks_are_fetched_checked_and_evaluated_without_the_hub(
    run: Run, tmp_path: Path, hub: Hub, tiny_model: Path, subjects: list[str]
) -> None:
    commit = hub.add_model("acme/tiny", tiny_model)
    assert len(subjects) == 57
    revisions = {
        "mmlu": hub.add_dataset("cais/mmlu", write_mmlu(tmp_path / "mmlu", subjects)),
        "hellaswag": hub.add_dataset("Rowan/hellaswag", write_hellaswag(tmp_path / "swag", 4)),
        "belebele_deu_Latn": hub.add_dataset("facebook/belebele", write_belebele(tmp_path / "b")),
        "polemo2_in": hub.add_dataset("allegro/klej-polemo2-in", write_polemo(tmp_path / "p")),
    }
    for name in ("f1", "accuracy"):
        hub.add_metric(name, write_metric(tmp_path / "metrics" / name, name))
    environment = {"HF_HOME": str(tmp_path / "hf"), "OELLM_CLUSTER": "local", **hub.environment}

    def call(*command: str | Path, stdin: str = "", status: int = 0) -> str:
        return run(*command, stdin=stdin, env=environment, status=status).stdout

    asked = ["oe-manifest", "--models=acme/tiny"]
    manifest = call(*asked, "--tasks=mmlu,hellaswag", "--n_shot=5")
    others = call(*asked, "--tasks=belebele_deu_Latn,polemo2_in", "--n_shot=0")
    manifest += others.partition("\n")[2]
    fetched = call("oe-fetch", stdin=manifest)
    facts = {row["task_path"]: row for row in rows_of(fetched)}
    for task, revision in revisions.items():
        assert facts[task]["dataset_revision"].endswith(f"@{revision}")
        assert facts[task]["model_revision"] == commit
    counts = [(row["n_docs"], row["n_requests"], row["request_types"]) for row in facts.values()]
    assert counts == [
        ("456", "1824", "loglikelihood=1824"),
        ("12", "48", "loglikelihood=48"),
        ("4", "16", "loglikelihood=16"),
        ("4", "4", "generate_until=4"),
    ]
    size = sum(path.stat().st_size for path in tiny_model.iterdir())
    assert {row["model_bytes"] for row in facts.values()} == {str(size)}

    hub.stop()
    (tmp_path / "m.csv").write_text(fetched)
    assert rows_of(call("oe-fetch", "--check", tmp_path / "m.csv")) == []
    call("oe-submit", stdin=call("oe-render", "--run_dir=run", stdin=limited(fetched)))
    results = [json.loads(path.read_text()) for path in (tmp_path / "run/results").iterdir()]
    assert {result["oellm"]["row"]["task_path"] for result in results} == set(revisions)

    (lost, *_) = (tmp_path / "hf").rglob("mmlu-dev.arrow")
    lost.unlink()
    (stuck,) = rows_of(call("oe-fetch", "--check", tmp_path / "m.csv", status=1))
    assert stuck["task_path"] == "mmlu"
    assert str(lost) in stuck["reason"]
    assert stuck["remedy"] == f"oe-fetch {tmp_path}/m.csv"


def limited(manifest: str) -> str:
    """Return the rows with a limit of one document each, which takes little time."""
    rows = rows_of(manifest)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], "limit"])
    writer.writeheader()
    writer.writerows({**row, "limit": "1"} for row in rows)
    return text.getvalue()
