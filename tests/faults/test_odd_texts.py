"""Locales, bytes and numbers that programs of other people take apart wrongly."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from oellm.errors import InputError
from oellm.runs.submit_lock import SubmitLock
from support.processes import Run

HEADER = "model_path,task_path,n_shot"
# Far more than it takes; a whole disk takes minutes.
PATIENCE_S = 20
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def test_a_locale_without_utf8_costs_no_letter(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "m é 模"
    model.mkdir()
    manifest = f"{HEADER}\n{model},arc_easy,0\n"
    options = ("oe-render", "--cluster=local", f"--run_dir={tmp_path}/r é")
    record = json.loads(run(*options, stdin=manifest, env=ASCII).stdout)
    assert record["run_dir"] == f"{tmp_path}/r é"
    printed = run("oe-status", "--format=jsonl", record["run_dir"], env=ASCII, status=75).stdout
    assert json.loads(printed)["model_path"] == str(model)


def test_a_run_directory_that_json_cannot_name_is_refused(run: Run, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    said = run(
        *("oe-render", "--cluster=local", f"--run_dir={path}"),
        stdin=f"{HEADER}\nacme/a,arc_easy,0\n",
        status=2,
    ).stderr
    assert "\\udcff\\udcfe: expected a run directory whose path is UTF-8\n" in said
    assert not list(tmp_path.glob("*/jobs.csv"))


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (("oe-detect", f"--set=container_args={DEEP}"), "container_args: expected JSON"),
        (("oe-detect", f"--set=env={DEEP}"), "env: expected JSON"),
        (("oe-detect", f"--set=shard_time={'9' * 5000}"), "shard_time: expected"),
        (("oe-detect", f"--set=queue_limit={'9' * 5000}"), "queue_limit: expected an integer"),
    ],
)
def test_settings_that_no_parser_takes_are_bad_input(
    run: Run, command: tuple[str, str], place: str
) -> None:
    assert place in run(*command, "--cluster=local", status=2).stderr


@pytest.mark.parametrize("column", ["gen_kwargs", "model_args"])
def test_deep_json_in_a_cell_is_bad_input(run: Run, column: str) -> None:
    cell = '"{""a"":' + DEEP + '}"'
    said = run(
        *("oe-render", "--cluster=local"), stdin=f"{HEADER},{column}\nm,t,0,{cell}\n", status=2
    ).stderr
    assert said.startswith(f"oe-render: stdin:2: {column}: expected ")


@pytest.mark.parametrize(("token", "seconds"), [("../../x", 0), ("y", 2**33), (None, 0)])
def test_a_stale_lock_leads_nowhere_else(tmp_path: Path, token: str | None, seconds: int) -> None:
    lock = tmp_path / "submit.lock"
    lock.write_text(json.dumps({"host": "x", "pid": 1, "token": token}))
    # A time in the future says as little as one long ago.
    os.utime(lock, (seconds, seconds))
    with SubmitLock(tmp_path):
        assert json.loads(lock.read_text())["host"] == socket.gethostname()
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_as_a_lock_is_bad_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "submit.lock")
    with pytest.raises(InputError, match="it is a named pipe, not a regular file; remove it"):
        SubmitLock(tmp_path).__enter__()


def test_a_model_that_is_a_whole_disk_takes_no_time(run: Run, tmp_path: Path) -> None:
    many = tmp_path / "m"
    for number in range(11):
        (many / str(number)).mkdir(parents=True)
        for name in range(1000):
            (many / str(number) / str(name)).touch()
    manifest = f"{HEADER}\n{many},arc_easy,0\n"
    started = time.monotonic()
    run("oe-render", "--cluster=local", "--dry_run", stdin=manifest, status=None)
    assert time.monotonic() - started < PATIENCE_S


def test_a_full_disk_is_said_with_the_file(run: Run, small_disk: Path) -> None:
    cells = "".join(f"acme/a{number:080},arc_easy,0\n" for number in range(5000))
    done = run(
        *("oe-render", "--cluster=local", f"--run_dir={small_disk}/run"),
        stdin=f"{HEADER}\n{cells}",
        status=3,
    )
    assert f"{small_disk}/run/" in done.stderr
    assert "No space left on device" in done.stderr
    assert not (small_disk / "run").exists()
