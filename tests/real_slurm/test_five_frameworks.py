"""One manifest with rows of all frameworks, in real containers without a network, to one table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from support import code_rows
from support.belebele_rows import LANGUAGE, serve_belebele
from support.code_metric import serve_code_metric
from support.dev_cluster import DevCluster
from support.frameworks import KNOWN, PROBLEMS, framework_image, reciting_model
from support.hub import Hub
from support.hub_content import write_arc
from support.waiting import wait_until

# What the second model knows of the problems that the first one knows.
LESS = 4
IMAGES = {
    "bigcode_eval": "bigcode_eval",
    "bigcodebench": "vllm-cpu",
    "bigcodebench-evaluate": "bigcodebench-evaluate",
    "evalplus": "evalplus-generate",
    "evalplus-evaluate": "evalplus-evaluate",
    "lighteval": "lighteval",
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Write a suite with tasks of five frameworks, and the problems of two of them."""
    evalplus, bigcodebench = tmp_path / "evalplus", tmp_path / "bigcodebench"
    for directory in (evalplus, bigcodebench):
        directory.mkdir()
    code_rows.write_evalplus(evalplus / "HumanEvalPlus.jsonl", PROBLEMS)
    code_rows.write_bigcodebench(bigcodebench / "bigcodebench.jsonl", PROBLEMS)
    tasks: list[dict[str, Any]] = [
        {"task": "arc_easy", "n_shot": [0]},
        {"task": "humaneval", "n_shot": [0], "gen_kwargs": {"max_gen_toks": 300}},
        {"task": "humaneval", "eval_suite": "bigcode_eval"},
        {
            "task": "bigcodebench-complete",
            "eval_suite": "bigcodebench",
            "backend": "vllm",
            "apply_chat_template": False,
            "gen_kwargs": {"max_new_tokens": 300},
            "model_args": {"max_model_len": 1024, "enforce_eager": True},
            "include_path": str(bigcodebench),
        },
        {
            "task": "humaneval",
            "eval_suite": "evalplus",
            "apply_chat_template": False,
            "include_path": str(evalplus),
        },
        {
            "task": f"belebele_{LANGUAGE}_cf",
            "n_shot": [0],
            "eval_suite": "lighteval",
            "model_args": {"max_length": 1024},
        },
    ]
    path = tmp_path / "suite.json"
    path.write_text(json.dumps({"groups": {"five": {"description": "All.", "tasks": tasks}}}))
    return path


@pytest.fixture
def fetched(cluster: DevCluster, suite: Path, hub: Hub, tmp_path: Path) -> str:
    """Return the manifest as oe-fetch passes it on; the hub is gone then."""
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc"))
    code_rows.serve_human_eval(hub, tmp_path / "human_eval")
    serve_belebele(hub, tmp_path / "belebele")
    serve_code_metric(hub, tmp_path / "served")
    # The libraries would expand `$HOME` in the name of the shared directory.
    cluster.env["HF_HOME"] = str(tmp_path / "hf")
    images = {name: str(framework_image(image)) for name, image in IMAGES.items()}
    cluster.add_settings(
        images=images,
        cpu_partition="cpu",
        cpus_per_gpu=2,
        cpus_per_task=2,
        mem="5000M",
        shard_time="01:00:00",
        gpus_per_node=4,
    )
    models = ",".join(str(reciting_model(knows)) for knows in (KNOWN, LESS))
    rows = cluster.run(
        *("oe-manifest", "--models", models, "--suites", suite, "--task_groups=five"),
        *(f"--limit={PROBLEMS}", "--dtype=float32", "--batch_size=4"),
    )
    fetched = cluster.call("oe-fetch", stdin=rows, env=hub.environment)
    hub.stop()
    cluster.add_settings(container_args=["--net", "--network=none"])
    return fetched.stdout


def test_rows_of_five_frameworks_become_one_table_whatever_interrupts_them(
    cluster: DevCluster, fetched: str
) -> None:
    assert len(list(csv.DictReader(io.StringIO(fetched)))) == 12
    run_dir = Path(json.loads(cluster.run("oe-render", stdin=fetched))["run_dir"])
    cluster.run("oe-submit", run_dir)
    wait_until(lambda: any(run_dir.glob("stages/*/generate")), seconds=900)
    cluster.run("oe-submit", "--cancel", run_dir)
    cluster.wait(180)
    before = finished(run_dir)
    cluster.run("oe-submit", run_dir)
    wait_until(lambda: len(finished(run_dir)) > len(before), seconds=900)
    cluster.run("oe-submit", "--cancel", run_dir)
    cluster.wait(180)
    before |= finished(run_dir)
    said = cluster.call("oe-submit", "--wait=done", "--poll=1", run_dir).stderr
    assert "12 of 12 rows have results" in said
    after = finished(run_dir)
    assert {path: after[path] for path in before} == before

    records = cluster.run("oe-collect", "--format=jsonl", run_dir)
    names = {str(reciting_model(knows)): knows for knows in (KNOWN, LESS)}
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for line in map(json.loads, records.splitlines()):
        key = (line["eval_suite"], line["task"], names[line["model_path"]])
        found.setdefault(key, {})[f"{line['metric']} {line['filter']}".strip()] = line["value"]
    for knows in (KNOWN, LESS):
        share = pytest.approx(knows / PROBLEMS)
        assert found["lm_eval", "humaneval", knows]["pass@1 create_test"] == share
        assert found["bigcode_eval", "humaneval", knows]["pass@1 none"] == share
        assert found["evalplus", "humaneval", knows]["pass@1 base"] == share
        assert found["evalplus", "humaneval", knows]["pass@1 plus"] == share
        assert found["bigcodebench", "bigcodebench-complete", knows]["pass@1 none"] == share
        assert found["lm_eval", "arc_easy", knows]
        assert found["lighteval", f"belebele_{LANGUAGE}_cf", knows]
    sandboxes = {
        result["environment"].get("sandbox")
        for result in map(read_record, run_dir.glob("results/*.json"))
        if result["row"]["task_path"] in ("humaneval", "bigcodebench-complete")
    }
    assert sandboxes == {"container+guard"}
    table = cluster.run("oe-pivot", "--format=csv", stdin=records).splitlines()
    assert len(table) == 3


def finished(run_dir: Path) -> dict[Path, str]:
    """Return when each result and each output of a first stage was finished."""
    timings = {path: read_record(path)["timing"] for path in run_dir.glob("results/*.json")}
    for path in run_dir.glob("stages/*/generate/stage.json"):
        timings[path] = json.loads(path.read_text())["timing"]
    return {path: timing["finished"] for path, timing in timings.items()}


def read_record(path: Path) -> dict[str, Any]:
    """Return our record in a result."""
    record: dict[str, Any] = json.loads(path.read_text())["oellm"]
    return record
