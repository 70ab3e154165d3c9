"""A row is evaluated on the data with which oe-fetch prepared it, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.hub import Hub
from support.hub_content import write_arc, write_task
from support.processes import Run


@pytest.mark.slow
def test_a_row_whose_data_set_has_changed_in_the_cache_is_refused(
    run: Run, tmp_path: Path, hub: Hub, tiny_model: Path
) -> None:
    write_task(tmp_path / "tasks", "quiz", "allenai/ai2_arc")
    task = tmp_path / "tasks" / "quiz.yaml"
    content = {**json.loads(task.read_text()), "dataset_name": "ARC-Easy"}
    texts = {
        "doc_to_choice": "{{choices.text}}",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
    }
    task.write_text(json.dumps({**content, **texts}))
    environment = {"HF_HOME": str(tmp_path / "hf"), "OELLM_CLUSTER": "local", **hub.environment}
    first = hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "first"))
    manifest = run(
        *("oe-manifest", f"--models={tiny_model}", "--tasks=quiz", "--n_shot=0"),
        f"--include_path={tmp_path}/tasks",
    ).stdout
    fetched = run("oe-fetch", stdin=manifest, env=environment).stdout
    assert f"allenai/ai2_arc@{first}" in fetched

    # Somebody has fetched the data set of today into the cache of the group.
    shutil.rmtree(tmp_path / "hf")
    second = hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "second", count=2))
    again = run("oe-fetch", stdin=manifest, env=environment).stdout
    assert f"allenai/ai2_arc@{second}" in again

    offline = {**environment, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    refused = run("oe-run-task", "--output_dir=out", stdin=fetched, env=offline, status=1)
    assert (
        f"data allenai/ai2_arc: {first[:12]} → {second[:12]}: the cache has other data than those "
        "with which oe-fetch prepared this row; to evaluate it on these, run oe-fetch again"
    ) in refused.stderr
    assert not list(tmp_path.glob("out/results/*"))
    done = run("oe-run-task", "--output_dir=out", stdin=again, env=offline)
    assert json.loads(done.stdout)["oellm"]["contents"]["data"] == f"allenai/ai2_arc@{second}"
