"""oe-fetch: what it fetches, as a real process against a hub on loopback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from oellm.manifest.rows import Row, eval_id
from support.fetching import HEADER, Account
from support.hub import Hub
from support.hub_content import (
    ARC,
    HELLASWAG,
    write_arc,
    write_files,
    write_hellaswag,
    write_metric,
    write_task,
)
from support.model_directories import write_model
from support.processes import Run, rows_of


@pytest.mark.slow
def test_local_rows_pass_without_a_hub(tmp_path: Path, cut_off: Account, tasks: Path) -> None:
    model = write_model(tmp_path / "model")
    for name, member in (("quizzes", {"group": "more"}), ("more", "quiz")):
        (tasks / f"{name}.yaml").write_text(json.dumps({"group": name, "task": [member]}))
    # The output of a task's code must not end up between the rows.
    (tasks / "noise.py").write_text("print('noise')\ndef docs(data):\n    return data\n")
    task = (tasks / "quiz.yaml").read_text()
    (tasks / "quiz.yaml").write_text(
        task[:-1] + ', "process_docs": !function noise.docs, "metadata": {"version": 1}}'
    )
    manifest = (
        f"note,model_path,task_path,n_shot,include_path,model_revision\n"
        f'"a, ""b""",{model},quiz,0,{tasks},\n'
        f"ä,{model},quizzes,,{tasks},\n"
        f',"{model},dtype=float32",{tasks / "quiz.yaml"},3,,\n'
    )
    fetched = cut_off.fetch(manifest)
    size = sum(path.stat().st_size for path in model.iterdir())
    facts = {"dataset_revision": "", "task_version": "1"}
    facts |= {"n_docs": "4", "n_requests": "16", "request_types": "loglikelihood=16"}
    rows = rows_of(fetched.stdout)
    digests = [row.pop("task_digest") for row in rows]
    assert rows == [{**row, "model_bytes": str(size), **facts} for row in rows_of(manifest)]
    # The file is the task; the group is more than it.
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)
    assert digests[0] != digests[1] != digests[2]
    assert "noise" in fetched.stderr
    assert "oe-fetch: 3 of 3 rows fetched" in fetched.stderr
    assert "oe-fetch: task quizzes can start" in fetched.stderr
    # Nothing was asked for.
    assert "does not answer" not in fetched.stderr


def test_no_rows_give_a_manifest_of_no_rows(cut_off: Account) -> None:
    assert cut_off.fetch(f"{HEADER}\n").stdout == (
        f"{HEADER},model_revision,model_bytes,dataset_revision,task_digest,task_version,"
        "n_docs,n_requests,request_types\n"
    )


@pytest.mark.slow
def test_models_are_fetched_once_at_their_commit(
    tmp_path: Path, account: Account, hub: Hub, tasks: Path
) -> None:
    others = ("pytorch_model.bin", "optimizer.pt", "original/x.pth")
    late, early, old = (
        hub.add_model("acme/a", write_files(write_model(tmp_path / name, seed=seed), *others), tag)
        for seed, (name, tag) in enumerate(
            (("late", "main"), ("early", "step10"), ("old", "step5"))
        )
    )
    hub.add_model("acme/words", write_files(tmp_path / "words", "tokenizer.json"))
    cells = {"model_path": "acme/a", "task_path": "quiz", "n_shot": "0", "include_path": str(tasks)}
    identity = eval_id(Row(cells))
    pinned = eval_id(Row({**cells, "model_revision": old}))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        f"eval_id,model_path,model_revision,task_path,n_shot,include_path\n"
        f"{identity},acme/a,,quiz,0,{tasks}\n"
        f',"acme/a,revision=step10,tokenizer=acme/words",,quiz,0,{tasks}\n'
        f"{pinned},acme/a,{old},quiz,0,{tasks}\n"
        f",acme/a,,quiz,3,{tasks}\n"
    )
    fetched = account.fetch("", "--jobs=2", manifest)
    found = rows_of(fetched.stdout)
    assert [row["model_revision"] for row in found] == [late, early, old, late]
    # The identity depends on the commit, so a new commit empties it and a known one keeps it.
    assert [row["eval_id"] for row in found] == ["", "", pinned, ""]
    assert fetched.stdout.startswith("eval_id,model_path,model_revision,task_path,n_shot,include_")
    for commit in (late, early, old):
        assert account.snapshot("acme/a", commit) == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        }
    assert (account.hf_home / "hub/models--acme--words/refs/main").exists()
    downloads = [line for line in hub.requests if line.startswith("GET /acme/a/resolve")]
    assert len(downloads) == len(set(downloads)) == 7


@pytest.mark.slow
def test_environment_does_not_keep_files_from_the_cluster(
    tmp_path: Path, account: Account, hub: Hub, tasks: Path
) -> None:
    commit = hub.add_model("acme/a", write_model(tmp_path / "a"), token="hf_mine")
    # A login in the user's home opens gated repositories, although hf_home is elsewhere.
    login = write_files(account.home / ".cache/huggingface", "token") / "token"
    login.write_text("hf_mine")
    del account.environment["HF_HOME"]
    account.environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "elsewhere")}
    manifest = f"{HEADER},include_path\nacme/a,quiz,0,{tasks}\n"
    fetched = account.fetch(manifest, "--set", f"hf_home={account.hf_home}")
    assert "config.json" in account.snapshot("acme/a", commit)
    assert not (tmp_path / "elsewhere").exists()
    assert "HF_HUB_OFFLINE is ignored" in fetched.stderr
    assert "HF_HUB_CACHE is ignored" in fetched.stderr
    assert f"oe-fetch: model acme/a at {commit[:12]} downloaded, " in fetched.stderr
    again = account.fetch(manifest, "--set", f"hf_home={account.hf_home}")
    assert f"oe-fetch: model acme/a at {commit[:12]} found in the cache, " in again.stderr


@pytest.mark.slow
def test_what_is_in_the_cache_needs_no_hub(
    tmp_path: Path, account: Account, hub: Hub, tasks: Path
) -> None:
    commit = hub.add_model("acme/a", write_model(tmp_path / "a"))
    manifest = f"{HEADER},include_path\nacme/a,quiz,0,{tasks}\n"
    fetched = account.fetch(manifest)
    hub.stop()
    again = account.fetch(manifest)
    assert again.stdout == fetched.stdout
    assert commit in again.stdout
    assert "does not answer" not in again.stderr
    # A damaged copy is none.
    blobs = account.hf_home / "hub" / "models--acme--a" / "blobs"
    for path in blobs.iterdir():
        if path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:-1])
    damaged = account.fetch(manifest, status=1)
    assert "acme/a" in damaged.stderr
    assert rows_of(damaged.stdout) == []


@pytest.mark.slow
def test_metrics_are_fetched(tmp_path: Path, account: Account, hub: Hub, tasks: Path) -> None:
    model = write_model(tmp_path / "model")
    hub.add_metric("closeness", write_metric(tmp_path / "metric", "closeness"))
    for name, metric in (("measured", "closeness"), ("unmeasured", "nonesuch")):
        task = write_task(tasks, name) / f"{name}.yaml"
        task.write_text(task.read_text().replace('"acc"', f'"{metric}"'))
    fetched = account.fetch(
        f"{HEADER},include_path\n{model},measured,0,{tasks}\n{model},unmeasured,0,{tasks}\n",
        status=1,
    )
    assert [row["task_path"] for row in rows_of(fetched.stdout)] == ["measured"]
    assert "stdin:3: task_path: unmeasured: FileNotFoundError: Couldn't find a" in fetched.stderr
    assert list(account.hf_home.rglob("closeness.py"))


@pytest.mark.slow
def test_what_was_fetched_is_evaluated_offline(
    tmp_path: Path, run: Run, account: Account, hub: Hub, tiny_model: Path
) -> None:
    commit = hub.add_model("acme/tiny", tiny_model)
    words = write_files(tmp_path / "words", "README.md")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (words / name).write_bytes((tiny_model / name).read_bytes())
    hub.add_model("acme/words", words)
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc"))
    hub.add_dataset("Rowan/hellaswag", write_hellaswag(tmp_path / "hellaswag"))
    # The tag ai2_arc has arc_challenge too, for which the hub has no data here.
    manifest = (
        f"{HEADER}\nacme/tiny,arc_easy,0\nacme/tiny,arc_esay,0\nacme/tiny,ai2_arc,0\n"
        '"acme/tiny,tokenizer=acme/words",hellaswag,0\n'
    )
    fetched = account.fetch(manifest, status=1)
    assert [(row["task_path"], row["model_revision"]) for row in rows_of(fetched.stdout)] == [
        ("arc_easy", commit),
        ("hellaswag", commit),
    ]
    unknown = "lm-eval has no task, group or tag 'arc_esay', did you mean arc_easy?"
    assert f"oe-fetch: stdin:3: task_path: {unknown}" in fetched.stderr
    assert "oe-fetch: stdin:4: task_path: ai2_arc: ValueError: BuilderConfig" in fetched.stderr
    hub.stop()
    rendered = run("oe-render", stdin=fetched.stdout, env=account.environment).stdout
    submitted = run("oe-submit", stdin=rendered, env=account.environment).stdout
    columns = "--columns=task,metric,n_samples,model_revision"
    collected = run("oe-collect", columns, stdin=submitted, env=account.environment).stdout
    assert {f"arc_easy,acc,{len(ARC)},{commit}", f"hellaswag,acc,{len(HELLASWAG)},{commit}"} <= set(
        collected.splitlines()
    )
