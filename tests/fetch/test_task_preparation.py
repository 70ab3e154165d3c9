"""Tasks that can start without a network, those that cannot, and how much they ask."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from oellm.frameworks.interface import Demand
from oellm.frameworks.lm_eval import tasks as lm_eval_tasks
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from support.hub_content import write_code, write_task
from support.preparing import HEADER, Preparing
from support.processes import DEMO_TASKS, INDICES, Run


@pytest.fixture(scope="session")
def managers() -> TaskManagers:
    return TaskManagers(TaskIndices({"OELLM_CACHE_DIR": str(INDICES)}, print))


# ------------------------------------------------------------------------- what cannot start


MADE_UP = {
    # Name: code, the functions that the config names, what is said of it, and the remedy.
    "wants_a_package": (
        "def score(doc, results):\n    import langdetekt\n",
        {"process_results": "score"},
        "wants_a_package: ModuleNotFoundError: No module named 'langdetekt'",
        " -m pip install langdetekt",
    ),
    "wants_words": (
        "import nltk\n"
        "def score(doc, results):\n    return {'acc': len(nltk.data.find('corpora/none'))}\n",
        {"process_results": "score"},
        "wants_words: the cache does not have all of it: Resource ",
        "oe-fetch",
    ),
    "calls_home": (
        "import urllib.request\n"
        "def docs(data):\n    urllib.request.urlopen('http://127.0.0.1:9')\n    return data\n",
        {"process_docs": "docs"},
        "calls_home: the cache does not have all of it: <urlopen error the network is blocked",
        "oe-fetch",
    ),
    "leaves": (
        "import sys\ndef docs(data):\n    sys.exit('gone')\n",
        {"process_docs": "docs"},
        "leaves: SystemExit: gone",
        "",
    ),
    "dies": (
        "import os\ndef docs(data):\n    os.abort()\n",
        {"process_docs": "docs"},
        f"dies: building it failed, its process was killed by signal {signal.SIGABRT.value}",
        "",
    ),
    # An answer that nobody gave proves nothing.
    "is_particular": (
        "def score(doc, results):\n    return {'acc': {}[results[0]]}\n",
        {"process_results": "score"},
        "",
        "",
    ),
}


@pytest.mark.slow
def test_what_keeps_a_task_from_starting_is_found_without_a_model(
    preparing: Preparing, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    for name, (code, functions, _, _) in MADE_UP.items():
        write_code(tasks, name, code, **functions)
    write_task(tasks, "short")
    write_task(tasks, "executes")
    executes = tasks / "executes.yaml"
    executes.write_text(executes.read_text()[:-1] + ', "unsafe_code": true}')
    lines = "".join(f"a/b,{name},0,{tasks}\n" for name in MADE_UP)
    manifest = (
        f"{HEADER}\n{lines}a/b,short,9,{tasks}\na/b,short,3,{tasks}\n"
        f"a/b,executes,0,{tasks}\na/b,none,0,{tasks}\n"
        f"a/b,short,0,{tmp_path}/nowhere\na/b,{tmp_path}/half.yaml,0,{tasks}\n"
    )
    (tmp_path / "half.yaml").write_text("task: [half")
    records = preparing("--check_tasks", manifest, status=1)
    said = {
        (record["task_path"], record["n_shot"]): record
        for record in records
        if record["include_path"] == str(tasks)
    }
    for name, (_, _, problem, remedy) in MADE_UP.items():
        record = said[name, "0"]
        if problem:
            assert record["problem"].startswith(problem), record
            assert record["column"] == "task_path", record
            assert record["remedy"].endswith(remedy), record
            assert bool(record["remedy"]) == bool(remedy), record
        else:
            assert record["requests"] == {"loglikelihood": 16}, record
    # There are four documents, so not nine examples.
    assert said["short", "3"]["n_docs"] == 4
    assert "Sample larger than population" in said["short", "9"]["problem"]
    # Its answers are programs, which only a sandbox runs.
    assert said["executes", "0"]["n_docs"] == 4
    half = said[f"{tmp_path}/half.yaml", "0"]
    assert half["problem"].startswith(f"{tmp_path}/half.yaml is not YAML that lm-eval"), half
    assert "no task, group or tag 'none'" in said["none", "0"]["problem"]
    (lost,) = [record for record in records if record["include_path"] != str(tasks)]
    assert lost["column"] == "include_path"
    assert lost["problem"] == f"{tmp_path}/nowhere: no such directory"


def test_an_image_with_an_older_lm_eval_is_told(run: Run, tmp_path: Path) -> None:
    metadata = tmp_path / "old" / "lm_eval-0.4.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: lm_eval\nVersion: 0.4.9\n")
    manifest = f"{HEADER}\na/b,hellaswag,0,\n"
    environment = {"PYTHONPATH": str(tmp_path / "old")}
    refused = run("oe-run-task", "--check_tasks", stdin=manifest, env=environment, status=3)
    assert refused.stderr.startswith("oe-run-task: lm-eval 0.4.9 is too old, 0.4.12 is the oldest")


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("oellm_choice", {}),
        ("oellm_copy", {}),
        ("oellm_copy", {"repeats": 3}),
        ("oellm_prose", {}),
        ("quiz", {"metric_list": [{"metric": "acc_mutual_info"}]}),
    ],
)
@pytest.mark.parametrize("limit", [None, 3, 0.3])
@pytest.mark.slow
def test_the_counts_are_those_of_what_the_evaluator_asks(
    managers: TaskManagers,
    tmp_path: Path,
    task: str,
    changes: dict[str, Any],
    limit: float | None,
) -> None:
    if task == "quiz":
        write_task(tmp_path, "quiz")
        path = tmp_path / "quiz.yaml"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    elif changes:
        config = {"include": str(DEMO_TASKS / f"{task}.yaml"), "task": "changed", **changes}
        (tmp_path / "changed.yaml").write_text(json.dumps(config))
        task = "changed"
    include_path = str(tmp_path if task in ("quiz", "changed") else DEMO_TASKS)
    manager = managers.manager(task, include_path)
    (facts,) = lm_eval_tasks.collect_facts(manager, task, [Demand(0, limit)])
    (built,) = manager.load([task])["tasks"].values()
    from lm_eval.evaluator_utils import get_sample_size

    built.set_config("num_fewshot", 0)
    built.set_fewshot_seed(1)
    built.build_all_requests(limit=get_sample_size(built, limit), rank=0, world_size=1)
    asked = sum(instance.repeats or 1 for instance in built.instances)
    assert sum(facts.requests.values()) == asked
    assert facts.n_docs == len({instance.doc_id for instance in built.instances})
    assert set(facts.requests) == {instance.request_type for instance in built.instances}
