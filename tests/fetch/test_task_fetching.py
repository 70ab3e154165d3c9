"""Fetching what tasks need, from a hub on loopback that may misbehave."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.hub import Fault, Hub
from support.hub_content import write_arc, write_code, write_dataset, write_hellaswag, write_task
from support.model_directories import write_model
from support.preparing import HEADER, Preparing
from support.processes import Run, rows_of
from support.waiting import wait_until


@pytest.mark.slow
def test_data_that_datasets_does_not_find_offline_is_found(
    preparing: Preparing, tmp_path: Path, hub: Hub
) -> None:
    """Test named files, hf:// addresses, and no configuration although two are cached."""
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
    assert "the hub twice sent something other than what it lists" in record["problem"], record
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
        assert record["problem"].startswith("arc_easy: the cache does not have all of it: "), record
        assert (record["unreachable"], record["remedy"]) == (True, "oe-fetch")
        preparing("--fetch_tasks", manifest)
        assert arrow.read_bytes() == whole


# Does what nltk.download does, which itself refuses addresses of this machine.
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
        # --check prints a manifest of the rows that must be fetched.
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
    assert "(the file system is full: free some space, or set hf_home to" in record["problem"], (
        record
    )
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
        wait_until(lambda: bool(hub.served("GET /datasets/allenai/*.parquet")))
        os.killpg(process.pid, signal.SIGKILL)
    hub.heal()
    both = [preparing.start(manifest) for _ in range(2)]
    for process in both:
        output, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
        assert {json.loads(line)["n_docs"] for line in output.splitlines()} == {5_000, 3}
    hub.stop()
    assert len(preparing("--check_tasks", manifest)) == 2
