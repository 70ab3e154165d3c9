"""oe-fetch: real processes against a hub on loopback."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from oellm.hub import environment
from oellm.manifest.rows import Row, eval_id
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
from support.processes import BIN, Run, clean_environment

HEADER = "model_path,task_path,n_shot"


class Account:
    """A user's account: a Hugging Face cache and a way to the hub, if any."""

    def __init__(self, run: Run, root: Path, hub: Hub | None) -> None:
        self.run = run
        self.home = root / "home"
        self.hf_home = root / "hf"
        self.environment = {
            "HF_HOME": str(self.hf_home),
            "OELLM_CLUSTER": "local",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **(hub.environment if hub else nowhere()),
        }

    def fetch(
        self, manifest: str, *arguments: str | Path, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        return self.run("oe-fetch", *arguments, stdin=manifest, env=self.environment, status=status)

    def snapshot(self, model: str, commit: str) -> set[str]:
        """The files of a model in the cache."""
        name = f"models--{model.replace('/', '--')}"
        directory = self.hf_home / "hub" / name / "snapshots" / commit
        return {path.relative_to(directory).as_posix() for path in directory.rglob("*.*")}


def nowhere() -> dict[str, str]:
    """The environment of a hub whose port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}


def rows_of(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output)))


@pytest.fixture
def account(run: Run, tmp_path: Path, hub: Hub) -> Account:
    return Account(run, tmp_path, hub)


@pytest.fixture
def cut_off(run: Run, tmp_path: Path) -> Account:
    return Account(run, tmp_path, None)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_task(tmp_path / "tasks", "quiz")


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
def test_what_cannot_be_fetched_is_left_out_and_named(
    tmp_path: Path, account: Account, hub: Hub, tasks: Path
) -> None:
    commit = hub.add_model("acme/a", write_model(tmp_path / "a"))
    hub.add_model("acme/gated", write_model(tmp_path / "gated"), token="hf_other")
    hub.add_dataset("acme/secret", write_files(tmp_path / "secret", "test.jsonl"), token="hf_other")
    write_task(tasks, "hidden", "acme/secret")
    write_task(tasks, "lost", "acme/lost")
    manifest = f"{HEADER},include_path\n" + "".join(
        f"{model},{task},0,{tasks}\n"
        for model, task in [
            ("acme/a", "quiz"),
            ("acme/missing", "quiz"),
            ("acme/gated", "quiz"),
            ('"acme/a,revision=step3"', "quiz"),
            (tmp_path / "nothing", "quiz"),
            (tasks, "quiz"),
            ("acme/a", "hidden"),
            ("acme/a", "lost"),
            ("acme/a", tasks / "none.yaml"),
            ("acme/missing", "lost"),
            ('"acme/a,dtype=float32"', "quiz"),
        ]
    )
    fetched = account.fetch(manifest, status=1)
    found = rows_of(fetched.stdout)
    assert [row["model_path"] for row in found] == ["acme/a", "acme/a,dtype=float32"]
    assert [row["model_revision"] for row in found] == [commit, commit]
    for named in [
        "stdin:3,11: model_path: acme/missing@main: not found on the hub: check the name",
        "stdin:4: model_path: acme/gated@main: gated: accept the licence on its page, then set HF_",
        "stdin:5: model_path: acme/a@step3: there is no such revision",
        f"stdin:6: model_path: {tmp_path}/nothing: no such directory",
        f"stdin:7: model_path: {tasks}: no config.json",
        "stdin:8: task_path: hidden: Dataset 'acme/secret' is a gated dataset on the Hub. You must "
        "be authenticated to access it. (gated: accept the licence",
        "stdin:9,11: task_path: lost: Dataset 'acme/lost' doesn't exist on the Hub",
        f"stdin:10: task_path: {tasks}/none.yaml: no such file",
        "2 of 11 rows fetched, the others left out",
    ]:
        assert fetched.stderr.count(f"oe-fetch: {named}") == 1, fetched.stderr


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
def test_unreachable_hub(tmp_path: Path, cut_off: Account, tasks: Path) -> None:
    write_task(tasks, "far", "acme/far")
    model = write_model(tmp_path / "model")
    started = time.monotonic()
    fetched = cut_off.fetch(
        f"{HEADER},include_path\n"
        f"acme/a,quiz,0,{tasks}\n"
        f"{model},far,0,{tasks}\n"
        f"{model},quiz,0,{tasks}\n",
        status=3,
    )
    assert time.monotonic() - started < 45
    address = cut_off.environment["HF_ENDPOINT"]
    assert f"stdin:2: model_path: acme/a@main: {address} cannot be reached" in fetched.stderr
    far = "far: the cache does not have all of it: Couldn't reach 'acme/far' on the Hub"
    assert f"stdin:3: task_path: {far}" in fetched.stderr
    assert [row["model_path"] for row in rows_of(fetched.stdout)] == [str(model)]


def test_silent_hub_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_ANSWER_S", 0.2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert environment.find_silence(f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.slow
def test_interrupt_does_not_wait_for_downloads(
    tmp_path: Path, account: Account, hub: Hub, tasks: Path
) -> None:
    hub.add_model("acme/a", write_model(tmp_path / "a"))
    hub.answering.clear()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"{HEADER},include_path\nacme/a,quiz,0,{tasks}\n")
    with subprocess.Popen(
        [BIN / "oe-fetch", manifest],
        env=clean_environment(account.home, account.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not any("/api/models/acme/a" in line for line in hub.requests):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        output, messages = process.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert output == ""
    assert "oe-fetch: interrupted" in messages
    hub.answering.set()


def test_an_environment_that_is_missing_is_told_before_anything_is_downloaded(
    account: Account, hub: Hub
) -> None:
    settings = ["--set=images.lm_eval=none.sif", "--set=container_runtime=apptainer"]
    settings.append(f"--set=images_directory={account.home}")
    for option in ([], ["--check"]):
        refused = account.fetch(f"{HEADER}\nacme/a,arc_easy,0\n", *settings, *option, status=3)
        assert refused.stdout.count("\n") == 0
        told = f"oe-fetch: {account.home}/none.sif: no such image; set images_directory or images."
        assert told in refused.stderr
    assert not hub.served("*/acme/*")


@pytest.mark.slow
# 1 is also the status of tasks that cannot start.
@pytest.mark.parametrize("exit_status", [1, 7])
def test_an_environment_that_does_not_start_is_told(
    account: Account, tmp_path: Path, tasks: Path, exit_status: int
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/bash\necho out of order >&2\nexit {exit_status}\n")
    python.chmod(0o755)
    model = write_model(tmp_path / "model")
    manifest = f"{HEADER},include_path\n{model},quiz,0,{tasks}\n"
    refused = account.fetch(manifest, f"--set=venv={tmp_path}/venv", status=3)
    assert refused.stdout == ""
    assert "out of order\n" in refused.stderr
    told = "oe-run-task --fetch_tasks in the environment of cluster local ended with status"
    assert f"{told} {exit_status}\n" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "stdin: expected a CSV header"),
        ("garbage\n", "stdin:1: model_path: required column is missing"),
        (f"{HEADER}\nacme/a,quiz,five\n", "stdin:2: n_shot: expected a non-negative integer"),
        (f"{HEADER}\nacme/a,quiz,0\nacme/a\n", "stdin:3: expected 3 cells"),
        (f"{HEADER},eval_suite\na/b,quiz,0,nope\n", "stdin:2: eval_suite: expected one of lm_eval"),
        (f"{HEADER},eval_id\na/b,quiz,0,{'0' * 16}\n", "stdin:2: eval_id: expected "),
    ],
)
def test_garbage(cut_off: Account, manifest: str, message: str) -> None:
    fetched = cut_off.fetch(manifest, status=2)
    assert fetched.stdout == ""
    assert f"oe-fetch: {message}" in fetched.stderr


def test_wrong_usage(cut_off: Account) -> None:
    fetched = cut_off.fetch("", "--jobs=0", status=2)
    assert "--jobs: expected a positive integer, got '0'" in fetched.stderr
    fetched = cut_off.fetch(f"{HEADER}\n", "--set=hf_home=/a/$HOME", status=2)
    assert "hf_home: expected a path without '$', got '/a/$HOME'" in fetched.stderr


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
