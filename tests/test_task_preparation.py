"""What tasks need: fetched from a hub on loopback, and proved to start without a network."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import signal
import subprocess
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hub import Fault, Hub
from hub_content import (
    write_arc,
    write_code,
    write_dataset,
    write_hellaswag,
    write_task,
)
from model_directories import write_model
from oellm.frameworks import Demand
from oellm.frameworks.lm_eval import check
from oellm.frameworks.lm_eval.data import TaskManagers
from oellm.task_index import TaskIndices
from processes import BIN, DEMO_TASKS, INDICES, Run, clean_environment

HEADER = "model_path,task_path,n_shot,include_path"


class Preparing:
    """Calls of oe-run-task that prepare tasks, in one account on one hub."""

    def __init__(self, run: Run, root: Path, hub: Hub) -> None:
        self._run = run
        self.hf_home = root / "hf"
        self.environment = {"HF_HOME": str(self.hf_home), **hub.environment}
        self.messages = ""

    def __call__(self, option: str, manifest: str, status: int | None = 0) -> list[dict[str, Any]]:
        done = self._run(
            *("oe-run-task", option), stdin=manifest, env=self.environment, status=status
        )
        self.messages = done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, manifest: str) -> subprocess.Popen[str]:
        """Start to fetch tasks, in a group of processes of its own."""
        process = subprocess.Popen(
            [BIN / "oe-run-task", "--fetch_tasks"],
            env=clean_environment(self.hf_home.parent, self.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        process.stdin.write(manifest)
        process.stdin.close()
        process.stdin = None
        return process


@pytest.fixture
def preparing(run: Run, tmp_path: Path, hub: Hub) -> Preparing:
    return Preparing(run, tmp_path, hub)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


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
        "wants_words: not all of it is in the cache: Resource ",
        "oe-fetch",
    ),
    "calls_home": (
        "import urllib.request\n"
        "def docs(data):\n    urllib.request.urlopen('http://127.0.0.1:9')\n    return data\n",
        {"process_docs": "docs"},
        "calls_home: not all of it is in the cache: <urlopen error the network is refused",
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
        f"dies: building it failed, its process was ended by signal {signal.SIGABRT.value}",
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
    lines = "".join(f"a/b,{name},0,{tasks},\n" for name in MADE_UP)
    manifest = (
        f"{HEADER},confirm_run_unsafe_code\n{lines}a/b,short,9,{tasks},\na/b,short,3,{tasks},\n"
        f"a/b,executes,0,{tasks},\na/b,executes,0,{tasks},true\na/b,none,0,{tasks},\n"
        f"a/b,short,0,{tmp_path}/nowhere,\na/b,{tmp_path}/half.yaml,0,{tasks},\n"
    )
    (tmp_path / "half.yaml").write_text("task: [half")
    records = preparing("--check_tasks", manifest, status=1)
    said = {
        (record["task_path"], record["n_shot"], record["confirm_run_unsafe_code"]): record
        for record in records
        if record["include_path"] == str(tasks)
    }
    for name, (_, _, problem, remedy) in MADE_UP.items():
        record = said[name, "0", ""]
        if problem:
            assert record["problem"].startswith(problem), record
            assert record["column"] == "task_path", record
            assert record["remedy"].endswith(remedy), record
            assert bool(record["remedy"]) == bool(remedy), record
        else:
            assert record["requests"] == {"loglikelihood": 16}, record
    # There are four documents, so not nine examples.
    assert said["short", "3", ""]["n_docs"] == 4
    assert "Sample larger than population" in said["short", "9", ""]["problem"]
    permission = said["executes", "0", ""]
    assert permission["problem"].startswith("executes: ")
    assert permission["remedy"] == "--confirm_run_unsafe_code=true"
    assert said["executes", "0", "true"]["n_docs"] == 4
    half = said[f"{tmp_path}/half.yaml", "0", ""]
    assert half["problem"].startswith(f"{tmp_path}/half.yaml: ParserError: while parsing"), half
    assert "no task, group or tag 'none'" in said["none", "0", ""]["problem"]
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
    assert refused.stderr.startswith("oe-run-task: lm-eval 0.4.9 is too old, 0.4.12 is the first")


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
    (facts,) = check.facts(manager, task, [Demand(0, limit, False)])
    (built,) = manager.load([task])["tasks"].values()
    from lm_eval.evaluator_utils import get_sample_size

    built.set_config("num_fewshot", 0)
    built.set_fewshot_seed(1)
    built.build_all_requests(limit=get_sample_size(built, limit), rank=0, world_size=1)
    asked = sum(instance.repeats or 1 for instance in built.instances)
    assert sum(facts.requests.values()) == asked
    assert facts.n_docs == len({instance.doc_id for instance in built.instances})
    assert set(facts.requests) == {instance.request_type for instance in built.instances}


# ------------------------------------------------------------------------- what is fetched


@pytest.mark.slow
def test_data_that_datasets_does_not_find_offline_is_found(
    preparing: Preparing, tmp_path: Path, hub: Hub
) -> None:
    """Named files of a repository, hf:// addresses, and no configuration where two are cached."""
    arc, tasks = tmp_path / "arc", tmp_path / "tasks"
    write_arc(arc)
    other = [{"question": "?", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": "A"}]
    write_dataset(arc, "other", "other", other)
    (arc / "files").mkdir()
    quiz = write_task(tasks, "quiz") / "quiz.jsonl"
    (arc / "files" / "quiz.jsonl").write_bytes(quiz.read_bytes())
    (arc / "README.md").write_text(
        (arc / "README.md").read_text().replace('"ARC-Easy",', '"ARC-Easy", "default": true,')
    )
    commit = hub.add_dataset("acme/arc", arc)
    config = json.loads((tasks / "quiz.yaml").read_text())
    for name, path, options in (
        ("named", "acme/arc", {"data_files": {"test": "files/quiz.jsonl"}}),
        ("folder", "acme/arc", {"data_dir": "files"}),
        ("address", "json", {"data_files": {"test": ["hf://datasets/acme/arc/files/quiz.jsonl"]}}),
    ):
        changed = config | {"task": name, "dataset_path": path, "dataset_kwargs": options}
        if name == "folder":
            changed["test_split"] = "train"
        (tasks / f"{name}.yaml").write_text(json.dumps(changed))
    for name, configuration in (("plain", None), ("second", "other")):
        changed = config | {"task": name, "dataset_path": "acme/arc", "dataset_kwargs": {}}
        changed |= {"doc_to_choice": "{{choices.text}}", "doc_to_target": 0}
        (tasks / f"{name}.yaml").write_text(json.dumps(changed | {"dataset_name": configuration}))
    names = ("named", "folder", "address", "plain", "second")
    manifest = f"{HEADER}\n" + "".join(f"a/b,{name},0,{tasks}\n" for name in names)
    fetched = preparing("--fetch_tasks", manifest)
    assert {record["dataset_revision"] for record in fetched} == {f"acme/arc@{commit}"}
    hub.stop()
    checked = preparing("--check_tasks", manifest)
    requests = {record["task_path"]: record["requests"]["loglikelihood"] for record in checked}
    # The configuration without a name is the one that the card calls the default.
    assert requests == {"named": 16, "folder": 16, "address": 16, "plain": 16, "second": 3 // 3}


@pytest.mark.slow
def test_a_hub_that_misbehaves_is_tried_again(
    preparing: Preparing, tmp_path: Path, hub: Hub
) -> None:
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc"))
    hub.add_dataset("Rowan/hellaswag", write_hellaswag(tmp_path / "hellaswag"))
    hub.fault("GET /datasets/*ai2_arc*.parquet", Fault(status=500), times=2)
    hub.fault("GET /datasets/*hellaswag*.parquet", Fault(cut=1000), times=2)
    hub.fault("GET /api/datasets/*", Fault(status=429, headers={"Retry-After": "1"}), times=2)
    manifest = f"{HEADER}\na/b,arc_easy,0,\na/b,hellaswag,0,\n"
    fetched = preparing("--fetch_tasks", manifest)
    assert hub.next_fault("GET /datasets/hellaswag.parquet") == Fault(), "a fault did not come"
    assert hub.next_fault("GET /datasets/ai2_arc.parquet") == Fault(), "a fault did not come"
    assert {record["task_path"] for record in fetched} == {"arc_easy", "hellaswag"}
    hub.stop()
    assert preparing("--check_tasks", manifest)


@pytest.mark.slow
def test_data_under_the_name_of_other_data_are_not_taken(
    preparing: Preparing, tmp_path: Path, hub: Hub
) -> None:
    """With one ETag for two files, the cache would give the first one's content for both."""
    train = write_arc(tmp_path / "more", 7) / "ARC-Easy/train-00000-of-00001.parquet"
    arc = write_arc(tmp_path / "arc")
    (arc / "ARC-Easy" / train.name).write_bytes(train.read_bytes())
    hub.add_dataset("allenai/ai2_arc", arc)
    manifest = f"{HEADER}\na/b,arc_easy,0,\n"
    hub.fault("* /datasets/*.parquet", Fault(etag="0" * 40))
    (record,) = preparing("--fetch_tasks", manifest, status=1)
    assert "the hub gave something else than what it lists, twice" in record["problem"], record
    assert preparing("--check_tasks", manifest, status=1)[0]["unreachable"]
    hub.heal()
    # One that passes.
    hub.fault("HEAD /datasets/*.parquet", Fault(etag="0" * 40), times=3)
    (record,) = preparing("--fetch_tasks", manifest)
    assert hub.next_fault("HEAD /datasets/x.parquet") == Fault(), "the fault did not come"
    assert record["n_docs"] == 4
    blobs = [path for path in preparing.hf_home.rglob("blobs/*") if path.name != "0" * 40]
    assert len(blobs) == len(list(preparing.hf_home.rglob("blobs/*")))


@pytest.mark.slow
def test_what_was_lost_from_the_cache_is_made_anew(
    preparing: Preparing, tmp_path: Path, hub: Hub
) -> None:
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc"))
    manifest = f"{HEADER}\na/b,arc_easy,0,\n"
    preparing("--fetch_tasks", manifest)
    (arrow,) = preparing.hf_home.rglob("ai2_arc-test.arrow")
    whole = arrow.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], None):
        arrow.write_bytes(damage) if damage is not None else arrow.unlink()
        (record,) = preparing("--check_tasks", manifest, status=1)
        assert record["problem"].startswith("arc_easy: not all of it is in the cache: "), record
        assert (record["unreachable"], record["remedy"]) == (True, "oe-fetch")
        preparing("--fetch_tasks", manifest)
        assert arrow.read_bytes() == whole


# What nltk.download does, which itself refuses addresses of this machine.
NLTK_CODE = """
import pathlib
import urllib.request

import nltk


def score(doc, results):
    try:
        found = nltk.data.find("corpora/terms")
    except LookupError:
        with urllib.request.urlopen("ADDRESS/terms") as answer:
            content = answer.read()
        root = nltk.downloader.Downloader().default_download_dir()
        directory = pathlib.Path(root, "corpora/terms")
        directory.mkdir(parents=True)
        (directory / "terms").write_bytes(content)
        found = nltk.data.find("corpora/terms")
    return {"acc": len(found.join("terms").open().read())}
"""


@pytest.mark.slow
def test_packages_of_nltk_go_where_the_jobs_look_for_them(
    run: Run, tmp_path: Path, hub: Hub
) -> None:
    (tmp_path / "terms").write_text("a\nb\n")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = NLTK_CODE.replace("ADDRESS", f"http://127.0.0.1:{server.server_address[1]}")
        write_code(tmp_path / "tasks", "wording", code, process_results="score")
        model = write_model(tmp_path / "model")
        environment = {"HF_HOME": str(tmp_path / "hf"), "OELLM_CLUSTER": "local"}
        environment |= hub.environment
        manifest = f"{HEADER}\n{model},wording,0,{tmp_path}/tasks\n"
        stuck = run("oe-fetch", "--check", stdin=manifest, env=environment, status=1)
        assert rows_of(stuck.stdout)[0]["remedy"] == "oe-fetch MANIFEST"
        # What --check prints is a manifest of what is to be fetched.
        fetched = run("oe-fetch", stdin=stuck.stdout, env=environment)
        server.shutdown()
    assert (tmp_path / "hf/nltk_data/corpora/terms/terms").read_text() == "a\nb\n"
    (row,) = rows_of(fetched.stdout)
    assert row["n_docs"] == "4"
    assert "reason" not in row
    run("oe-fetch", "--check", stdin=fetched.stdout, env=environment)


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_nothing_that_passes_for_data(
    preparing: Preparing, tmp_path: Path, hub: Hub, small_disk: Path
) -> None:
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc", 20_000))
    manifest = f"{HEADER}\na/b,arc_easy,0,\n"
    (record,) = preparing("--fetch_tasks", manifest, status=1)
    assert "(the file system is full: free some, or set hf_home to" in record["problem"], record
    assert preparing("--check_tasks", manifest, status=1)[0]["unreachable"]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    (record,) = preparing("--fetch_tasks", manifest)
    assert record["n_docs"] == 20_000


@pytest.mark.slow
def test_a_killed_fetch_goes_on_and_two_at_once_do_not_disturb_each_other(
    preparing: Preparing, tmp_path: Path, hub: Hub
) -> None:
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc", 5_000))
    hub.add_dataset("Rowan/hellaswag", write_hellaswag(tmp_path / "hellaswag"))
    manifest = f"{HEADER}\na/b,arc_easy,0,\na/b,hellaswag,0,\n"
    hub.fault("GET /datasets/allenai/*.parquet", Fault(bytes_per_second=2_000))
    with preparing.start(manifest) as process:
        deadline = time.monotonic() + 60
        while not hub.served("GET /datasets/allenai/*.parquet"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    hub.heal()
    both = [preparing.start(manifest) for _ in range(2)]
    for process in both:
        output, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
        assert {json.loads(line)["n_docs"] for line in output.splitlines()} == {5_000, 3}
    hub.stop()
    assert len(preparing("--check_tasks", manifest)) == 2
