"""Result files are whole, checked, and one worker's, even if others write or are killed."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy
import pytest

from oellm.runs.result_file import InvalidResultError, check_result
from oellm.runs.result_store import ResultStore

FORK = multiprocessing.get_context("fork")
EVAL_ID = "0123456789abcdef"
WRITERS, ROUNDS = 8, 50


def result(eval_id: str = EVAL_ID, value: float = 0.5, **metric: Any) -> dict[str, Any]:
    names = {"task": "t", "metric": "acc", "filter": "none"}
    metrics = [{**names, "value": value, "n_samples": 4, **metric}]
    row = {"model_path": "m", "task_path": "t"}
    ours = {"eval_id": eval_id, "status": "done", "row": row, "metrics": metrics}
    return {"results": {}, "oellm": ours}


def failure() -> dict[str, Any]:
    return {"oellm": {"eval_id": EVAL_ID, "status": "failed", "failure": {"class": "Error"}}}


def samples(writer: float = 0.5) -> dict[str, list[Any]]:
    return {"task": [{"doc_id": number, "writer": writer} for number in range(20)]}


def files(directory: Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in found)


def damage(store: ResultStore, eval_id: str = EVAL_ID) -> None:
    store.result_path(eval_id).parent.mkdir(parents=True, exist_ok=True)
    store.result_path(eval_id).write_text('{"results": ')


def write_all(
    directory: Path, writer: int, start: Barrier, answers: multiprocessing.Queue[tuple[str, int]]
) -> None:
    store = ResultStore(directory)
    for number in range(ROUNDS):
        eval_id = f"{number:016x}"
        start.wait(60)
        if number % 5 == 0:
            store.recover({eval_id})
        if store.write_result(result(eval_id, writer), samples(writer)).is_ours:
            answers.put((eval_id, writer))


def test_the_first_of_concurrent_workers_keeps_its_result_and_samples(
    tmp_path: Path,
) -> None:
    store = ResultStore(tmp_path)
    eval_ids = [f"{number:016x}" for number in range(ROUNDS)]
    for eval_id in eval_ids[::3]:
        damage(store, eval_id)
    start, answers = FORK.Barrier(WRITERS), FORK.Queue()
    writers = [
        FORK.Process(target=write_all, args=(tmp_path, writer, start, answers), daemon=True)
        for writer in range(WRITERS)
    ]
    for process in writers:
        process.start()
    winners = [answers.get(timeout=30) for _ in range(ROUNDS)]
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    assert answers.empty()
    assert Counter(eval_id for eval_id, _ in winners) == Counter(eval_ids)
    for eval_id, writer in winners:
        assert store.valid_result(eval_id) == result(eval_id, writer)
        lines = store.samples_path(eval_id).read_text().splitlines()
        assert [json.loads(line)["writer"] for line in lines] == [writer] * 20
    kept = [name for name in files(tmp_path) if ".invalid-" not in name]
    assert len(kept) == 2 * ROUNDS
    assert len(files(tmp_path)) - len(kept) == len(eval_ids[::3])


@pytest.mark.parametrize("call", ["link", "replace"])
def test_leftovers_of_a_killed_worker_are_put_in_place_or_removed(
    tmp_path: Path, call: str
) -> None:
    def write_and_die() -> None:
        setattr(os, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        ResultStore(tmp_path).write_result(result(), samples())

    worker = FORK.Process(target=write_and_die)
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    store = ResultStore(tmp_path)
    assert len(files(tmp_path)) == (2 if call == "link" else 3)
    # A worker of another row starts.
    before = files(tmp_path)
    store.recover({"f" * 16})
    assert files(tmp_path) == before
    store.recover({EVAL_ID})
    in_place = [f"results/{EVAL_ID}.json", f"samples/{EVAL_ID}.jsonl"]
    assert files(tmp_path) == ([] if call == "link" else in_place)
    assert store.write_result(result(), samples()).is_ours == (call == "link")
    assert files(tmp_path) == in_place
    assert len(store.samples_path(EVAL_ID).read_text().splitlines()) == 20


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_suffices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    store = ResultStore(tmp_path)
    damage(store)
    assert store.write_result(result(value=1), samples(1)).is_ours
    assert not store.write_result(result(value=2), samples(2)).is_ours
    assert store.valid_result(EVAL_ID) == result(value=1)
    assert json.loads(store.samples_path(EVAL_ID).read_text().splitlines()[0])["writer"] == 1
    aside, *kept = sorted(files(tmp_path), key=lambda name: ".invalid-" not in name)
    assert ".invalid-" in aside
    assert kept == [f"results/{EVAL_ID}.json", f"samples/{EVAL_ID}.jsonl"]


def test_a_link_counts_even_if_nfs_says_that_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answer_lost(source: Path, path: Path) -> None:
        link(source, path)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", answer_lost)
    store = ResultStore(tmp_path)
    assert store.write_result(result()).is_ours
    assert files(tmp_path) == [f"results/{EVAL_ID}.json"]


def test_the_quick_check_of_a_result_agrees_with_the_whole_one(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert not store.has_valid_result(EVAL_ID)
    store.write_result(result())
    whole = store.result_path(EVAL_ID).read_bytes()
    contents = [whole, whole[:-1], whole[:-9], whole[5:], b"", b"\0" * len(whole), b"{}\n"]
    contents.append(whole.replace(b"0.5", b"NaN"))
    contents.append(whole.replace(EVAL_ID.encode(), b"f" * 16))
    for content in contents:
        store.result_path(EVAL_ID).write_bytes(content)
        is_valid = store.valid_result(EVAL_ID) is not None
        assert store.has_valid_result(EVAL_ID) == is_valid
        # A line end at the end of the file is no part of the JSON.
        assert is_valid == (content in (whole, whole[:-1]))


def test_a_result_replaces_a_damaged_one_and_a_failure(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    damage(store)
    for attempts in (1, 2):
        store.write_failure(failure())
        record = json.loads(store.failure_path(EVAL_ID).read_text())
        assert record["oellm"]["failure"]["attempts"] == attempts
    assert store.write_result(result()).is_ours
    assert not store.write_result(result(value=0.25)).is_ours
    # If another worker fails, the result stays.
    store.write_failure(failure())
    assert store.valid_result(EVAL_ID) == result()
    aside, there = sorted(files(tmp_path), key=lambda name: ".invalid-" not in name)
    assert aside.startswith(f"results/{EVAL_ID}.json.invalid-")
    assert there == f"results/{EVAL_ID}.json"


@pytest.mark.parametrize("damaged", [[], {}, {"failure": []}, {"failure": {"attempts": "x"}}])
def test_a_damaged_failure_file_is_replaced(tmp_path: Path, damaged: Any) -> None:
    store = ResultStore(tmp_path)
    path = store.failure_path(EVAL_ID)
    path.parent.mkdir()
    path.write_text(json.dumps({"oellm": damaged}))
    assert store.failure(EVAL_ID) is None
    content = store.write_failure(failure())
    assert path.read_bytes() == content
    assert json.loads(content)["oellm"]["failure"]["attempts"] == 1


def test_a_valid_result_is_never_set_aside(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert store.set_aside(EVAL_ID) is None
    store.write_result(result())
    assert store.set_aside(EVAL_ID) is None
    assert store.valid_result(EVAL_ID) == result()


def test_a_result_that_replaced_a_damaged_one_in_time_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(tmp_path)
    damage(store)

    def wait_for_another_worker(*_: object) -> None:
        monkeypatch.undo()
        assert store.write_result(result()).is_ours

    monkeypatch.setattr(fcntl, "flock", wait_for_another_worker)
    assert store.set_aside(EVAL_ID) is None
    assert store.valid_result(EVAL_ID) == result()
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (result(value=float("nan")), "the value of acc is None"),
        (result(value=True), "the value of acc is True"),
        (result(n_samples=0), "n_samples of acc is 0"),
        (result(n_samples=-1), "n_samples of acc is -1"),
        (result(n_samples=4.0), "n_samples of acc is 4.0"),
        (result(n_samples="4"), "n_samples of acc is '4'"),
        (result(n_samples=True), "n_samples of acc is True"),
        ({"oellm": {"eval_id": EVAL_ID, "status": "done", "metrics": []}}, "it has no metrics"),
        (failure(), "its status is 'failed'"),
    ],
)
def test_an_invalid_result_leaves_no_file(
    tmp_path: Path, wrong: dict[str, Any], reason: str
) -> None:
    store = ResultStore(tmp_path)
    with pytest.raises(ValueError, match="not valid") as error:
        store.write_result(wrong, samples())
    assert str(error.value) == f"the result is not valid: {reason}"
    assert files(tmp_path) == []


def test_n_samples_may_be_unknown() -> None:
    check_result(result(n_samples=None))
    unknown = result()
    del unknown["oellm"]["metrics"][0]["n_samples"]
    check_result(unknown)


def test_numpy_numbers_are_numbers() -> None:
    check_result(result(value=numpy.float64(0.5)))
    with pytest.raises(InvalidResultError, match=r"^the value of acc is "):
        check_result(result(value=numpy.float64("nan")))


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    store = ResultStore(small_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write_result(result(), {"task": [{"text": "x" * 1000}] * 1000})
    assert files(small_disk) == []
    assert store.write_result(result(), samples()).is_ours


@pytest.mark.parametrize("kind", ["pipe", "directory", "link to nothing", "link to a device"])
def test_what_no_worker_writes_gives_way_to_a_result(tmp_path: Path, kind: str) -> None:
    store = ResultStore(tmp_path)
    path = store.result_path(EVAL_ID)
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
        (path / "file").touch()
    else:
        path.symlink_to("nowhere" if kind == "link to nothing" else "/dev/zero")
    assert store.valid_result(EVAL_ID) is None
    assert not store.has_valid_result(EVAL_ID)
    assert store.write_result(result(), samples()).is_ours
    assert store.valid_result(EVAL_ID) == result()
    (aside,) = path.parent.glob("*.invalid-*")
    assert aside.is_symlink() or not aside.is_file()


def test_a_directory_in_place_of_a_failure_takes_no_result_away(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.failure_path(EVAL_ID).mkdir(parents=True)
    assert store.write_result(result()).is_ours
    assert store.failure(EVAL_ID) is None
