"""oe-fetch: what cannot be fetched, silent hubs, environments that do not start, misuse."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from oellm.hub import environment
from support.fetching import HEADER, Account
from support.hub import Hub
from support.hub_content import write_files, write_task
from support.model_directories import write_model
from support.processes import BIN, clean_environment, rows_of
from support.waiting import wait_until


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
        wait_until(lambda: any("/api/models/acme/a" in line for line in hub.requests), 30, process)
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
        (
            f"{HEADER},eval_suite\na/b,quiz,0,nope\n",
            "stdin:2: eval_suite: expected one of bigcode_eval",
        ),
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
