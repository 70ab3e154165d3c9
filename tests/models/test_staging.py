"""Copies of models on a node's disk: made once, let go by whoever ends, never in the way."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError
from oellm.manifest.rows import Row
from oellm.models.staging import Source, Stage, resolve_stage_dir
from support.model_directories import write_model
from support.processes import DEMO_TASKS, Run, clean_environment

# Stages a model, prints its path and the messages, and keeps it until stdin ends.
HOLD = """
import json, sys
from oellm.manifest.rows import Row
from oellm.models.staging import Stage
said = []
stage = Stage(sys.argv[1], said.append)
source = stage.copy_model(Row(json.loads(sys.argv[2])))
print(json.dumps([*source, said]), flush=True)
sys.stdin.read()
stage.release()
"""


def row(path: object, **cells: str) -> Row:
    return Row({"model_path": str(path), "task_path": "t", "n_shot": "0", **cells})


@contextmanager
def holders(count: int, root: Path, one: Row, **env: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Run processes that stage a row's model at the same time, and kill those that are left."""
    command = [sys.executable, "-c", HOLD, str(root), json.dumps(dict(one.cells))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = clean_environment(root, env)
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def answer(process: subprocess.Popen[str]) -> tuple[Path, list[str]]:
    assert process.stdout is not None
    path, _, said = json.loads(process.stdout.readline())
    return Path(path), said


def opened_files(process: subprocess.Popen[str]) -> list[str]:
    files = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        # A file may be closed meanwhile.
        with suppress(FileNotFoundError):
            files.append(os.readlink(descriptor))
    return files


def own(root: Path) -> list[str]:
    return sorted(path.name for path in (root / f"oellm-{os.getuid()}").iterdir())


def same_files(one: Path, other: Path) -> bool:
    names = {path.name for path in one.iterdir()} | {path.name for path in other.iterdir()}
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_workers_of_a_node_copy_once_and_the_last_one_removes(tmp_path: Path) -> None:
    model, root = write_model(tmp_path / "m", shards=3, size=1_000_000), tmp_path / "disk"
    root.mkdir()
    with holders(3, root, row(model)) as processes:
        answers = [answer(process) for process in processes]
        (place,) = {path for path, _ in answers}
        assert place.parent == root / f"oellm-{os.getuid()}"
        assert [said for _, said in answers] == [[], [], []]
        assert same_files(place, model)
        before = place.stat().st_ino
        for process in processes[:2]:
            process.communicate()
            assert place.stat().st_ino == before
        processes[2].communicate()
        assert own(root) == []


def test_a_worker_that_finds_no_copy_never_waits_for_the_users_of_one(tmp_path: Path) -> None:
    model, root = write_model(tmp_path / "m"), tmp_path / "disk"
    root.mkdir()
    place = Path(Stage(str(root), print).copy_model(row(model)).path)
    place.rename(root / "copy")
    lock = place.with_name(f"{place.name}.lock")
    with open(lock, "rb") as ours, holders(1, root, row(model)) as (process,):
        fcntl.flock(ours, fcntl.LOCK_SH)
        # The worker has seen that there is no copy, when another one has just made it and uses it.
        while str(lock) not in opened_files(process):
            time.sleep(0.01)
        time.sleep(0.2)
        (root / "copy").rename(place)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 10)[0] == [process.stdout]
        assert answer(process) == (place, [])


def test_what_dead_workers_left_the_next_one_removes(tmp_path: Path) -> None:
    models = [write_model(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    with holders(1, tmp_path, row(models[0])) as (process,):
        place, _ = answer(process)
        process.kill()
    assert place.is_dir()
    stage = Stage(str(tmp_path), print)
    other = Path(stage.copy_model(row(models[1])).path)
    assert own(tmp_path) == [other.name, f"{other.name}.lock"]
    # Staging a model releases the previous one.
    again = stage.copy_model(row(models[0]))
    assert own(tmp_path) == [Path(again.path).name, f"{Path(again.path).name}.lock"]
    assert again.staged_s is not None
    stage.release()
    assert own(tmp_path) == []


def test_a_worker_killed_in_the_middle_leaves_no_half_of_a_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    os.truncate(model / "model.safetensors", 2**28)
    with holders(1, tmp_path, row(model)) as (process,):
        while not (found := list(tmp_path.glob("oellm-*/*.tmp/model.safetensors"))):
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert found[0].stat().st_size < 2**28
    stage = Stage(str(tmp_path), print)
    place = Path(stage.copy_model(row(model)).path)
    assert own(tmp_path) == [place.name, f"{place.name}.lock"]
    assert (place / "model.safetensors").stat().st_size == 2**28
    stage.release()


def test_a_model_that_was_changed_is_another_copy(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    with holders(1, tmp_path, row(model)) as (process,):
        first, _ = answer(process)
        os.utime(model / "model.safetensors", ns=(1, 1))
        stage = Stage(str(tmp_path), print)
        second = stage.copy_model(row(model)).path
        assert str(first) != second
        stage.release()
        assert first.is_dir()


def test_a_full_disk_means_reading_the_model_where_it_is(small_disk: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", size=500_000)
    said: list[str] = []
    assert Stage(str(small_disk), said.append).copy_model(row(model)) == Source(str(model))
    assert said[0].startswith(f"{model}: not staged, loading it from its original place: it has 50")
    stage = Stage(str(small_disk), said.append)
    stage.release()
    assert own(small_disk) == []


def test_a_directory_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / f"oellm-{os.getuid()}").symlink_to(elsewhere)
    (tmp_path / "file").write_text("")
    for name in ("disk", "file"):
        said: list[str] = []
        assert Stage(str(tmp_path / name), said.append).copy_model(row(model)) == Source(str(model))
        assert len(said) == 1
    assert list(elsewhere.iterdir()) == []


def test_of_the_hub_the_snapshot_is_copied_with_what_its_links_lead_to(tmp_path: Path) -> None:
    files = write_model(tmp_path / "files")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hf" / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in files.iterdir():
        (snapshot / path.name).symlink_to(path)
    env = {"HF_HOME": str(tmp_path / "hf")}
    with holders(1, tmp_path, row("acme/tiny", model_revision=commit), **env) as (process,):
        place, said = answer(process)
        assert said == []
        assert same_files(place, files)
        assert not any(path.is_symlink() for path in place.iterdir())
    with holders(1, tmp_path, row("acme/absent"), **env) as (process,):
        path, said = answer(process)
        assert (str(path), len(said)) == ("acme/absent", 1)


def test_the_setting_names_variables_of_the_job() -> None:
    environ = {"TMPDIR": "/tmp/job 1", "USER": "ada", "EMPTY": "", "EVIL": "$(touch x)$USER"}
    assert resolve_stage_dir("/tmp", environ) == "/tmp"
    assert resolve_stage_dir("$TMPDIR/x", environ) == "/tmp/job 1/x"
    assert resolve_stage_dir("/scratch/${USER}_1", environ) == "/scratch/ada_1"
    assert resolve_stage_dir("/a/`b`/$EVIL/$(c)", environ) == "/a/`b`/$(touch x)$USER/$(c)"
    for setting, problem in {
        "$NO_SUCH/x": "stage_dir: $NO_SUCH/x: the variable NO_SUCH is not set here",
        "${EMPTY}": "stage_dir: ${EMPTY}: the variable EMPTY is not set here",
        "relative": "stage_dir: expected an absolute path, got 'relative'",
    }.items():
        with pytest.raises(InputError) as caught:
            resolve_stage_dir(setting, environ)
        assert str(caught.value) == problem


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what differs between any two runs."""
    own_parts = ("timing", "usage", "provenance")
    kept = {name: part for name, part in record["oellm"].items() if name not in own_parts}
    model = record["oellm"]["provenance"]["model"]
    native = {name: part for name, part in record.items() if name not in ("date", "oellm")}
    return {**native, "oellm": {**kept, "model": model}}


@pytest.mark.slow
def test_results_are_those_of_the_model_where_it_is(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "a disk"
    rows = "model_path,task_path,n_shot,limit,include_path\n"
    rows += f"{tiny_model},oellm_choice,0,4,{DEMO_TASKS}\n"
    found = []
    for name, setting in (("plain", ""), ("staged", "$NODE_DISK/x")):
        directory = tmp_path / name
        env = {"OELLM_CLUSTER": "local", "OELLM_STAGE_DIR": setting, "NODE_DISK": str(disk)}
        run("oe-render", f"--run_dir={directory}", stdin=rows, env=env)
        work = ["oe-run-task", f"--run_dir={directory}", "--shard=0"]
        if setting:
            unset = run(*work, env={"NODE_DISK": ""}, status=2)
            assert "the variable NODE_DISK is not set here" in unset.stderr
        found.append(json.loads(run(*work, env=env).stdout))
    plain, staged = found
    assert without_times(plain) == without_times(staged)
    assert "staged_s" not in plain["oellm"]["provenance"]
    seconds = staged["oellm"]["provenance"]["staged_s"]
    assert 0 < seconds < staged["oellm"]["timing"]["model_load_s"]
    assert own(disk / "x") == []
