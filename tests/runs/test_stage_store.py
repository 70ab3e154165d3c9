"""The outputs of first stages: written whole, the first of two stays, nothing damaged counts."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from oellm.core import schema
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment
from oellm.runs.result_record import RowTiming
from oellm.runs.stages.stage_record import StageRecord
from oellm.runs.stages.stage_store import RECORD, InvalidStageError, StageOutput, StageStore

KEY = "0123456789abcdef"
OTHER = "fedcba9876543210"
STAGE = "generate"


def record(key: str = KEY, finished: str = "2026-01-01T00:00:01+00:00") -> StageRecord:
    return StageRecord(
        key=key,
        stage=STAGE,
        row={"model_path": "m", "task_path": "t"},
        contents=Contents(model="a" * 32),
        environment=Environment(hardware="CPU only"),
        provenance={"host": "n1"},
        timing=RowTiming(started="2026-01-01T00:00:00+00:00", finished=finished, generate_s=1.0),
        files={},
    )


def write(store: StageStore, text: str = "answers", **fields: str) -> StageOutput:
    attempt = store.new_attempt(fields.get("key", KEY), STAGE)
    (attempt / "found.json").write_text(text)
    (attempt / "more").mkdir()
    (attempt / "more" / "lines").write_text("1\n2\n")
    return store.place(attempt, record(**fields))


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "run")


def names(store: StageStore) -> list[str]:
    return sorted(os.listdir(store.path(KEY, STAGE).parent))


def test_an_output_follows_the_schema(store: StageStore) -> None:
    output = write(store)
    content = json.loads((output.path / RECORD).read_text())
    assert list(content) == list(schema.table("stage"))
    digest = hashlib.sha256(b"1\n2\n").hexdigest()
    assert content["files"]["more/lines"] == {"bytes": 4, "sha256": digest}
    found = store.valid(KEY, STAGE)
    assert found is not None
    assert found.record == output.record
    found.require_content()
    assert names(store) == [STAGE]
    # What a later version adds, this one passes over.
    (output.path / RECORD).write_text(json.dumps(content | {"later": 1}))
    assert store.valid(KEY, STAGE) is not None


def test_the_first_of_two_stays(store: StageStore) -> None:
    one, other = (store.new_attempt(KEY, STAGE) for _ in range(2))
    (one / "found.json").write_text("one")
    (other / "found.json").write_text("other")
    store.place(other, record())
    placed = store.place(one, record())
    assert (placed.path / "found.json").read_text() == "other"
    assert names(store) == [STAGE]


def _write_and_set_aside(directory: str, number: int) -> None:
    store = StageStore(Path(directory))
    for _ in range(20):
        output = write(store, f"{number}" * 1000)
        assert (output.record.key, output.record.stage) == (KEY, STAGE)
        store.set_stale_aside(output)


def test_outputs_of_writers_at_once_are_whole(tmp_path: Path) -> None:
    # Each sets aside what is there, so that the name is free again and again.
    context = multiprocessing.get_context("fork")
    arguments = [(str(tmp_path / "run"), number) for number in range(1, 5)]
    writers = [context.Process(target=_write_and_set_aside, args=each) for each in arguments]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = StageStore(tmp_path / "run")
    assert all(name.startswith("generate.stale-") for name in names(store))
    for name in names(store):
        files = {path.name: path.read_text() for path in (store.path(KEY, name)).glob("*.json")}
        assert len(files["found.json"]) == 1000
        assert len(set(files["found.json"])) == 1
        assert json.loads(files[RECORD])["files"].keys() == {"found.json", "more/lines"}


def _cut(path: Path) -> None:
    (path / "found.json").write_text("answer")


def _remove(path: Path) -> None:
    (path / "more" / "lines").unlink()


def _link(path: Path) -> None:
    (path / "found.json").rename(path.parent / "elsewhere")
    (path / "found.json").symlink_to(path.parent / "elsewhere")


def _wait(path: Path) -> None:
    (path / "found.json").unlink()
    os.mkfifo(path / "found.json")


def _change_record(**members: Any) -> Any:
    def change(path: Path) -> None:
        content = json.loads((path / RECORD).read_text())
        (path / RECORD).write_text(json.dumps(content | members))

    return change


def _replace(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


DAMAGES = {
    "cut": _cut,
    "removed": _remove,
    "link": _link,
    "pipe": _wait,
    "other key": _change_record(key=OTHER),
    "no row": _change_record(row=["a"]),
    "no timing": _change_record(timing={"generate_s": "long"}),
    "outside": _change_record(files={"../../x": {"bytes": 1, "sha256": ""}}),
    "absolute": _change_record(files={"/etc/passwd": {"bytes": 1, "sha256": ""}}),
    "no files": _change_record(files=7),
    "file": _replace,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_output_is_none_and_makes_room(store: StageStore, damage: str) -> None:
    output = write(store)
    DAMAGES[damage](output.path)
    assert store.valid(KEY, STAGE) is None
    again = write(store, "answers again")
    assert (again.path / "found.json").read_text() == "answers again"
    assert len([name for name in names(store) if name.startswith("generate.invalid-")]) == 1


def test_a_file_of_the_same_size_is_found_out_when_it_is_read(store: StageStore) -> None:
    output = write(store)
    (output.path / "found.json").write_text("aNswers")
    assert store.valid(KEY, STAGE) is not None
    with pytest.raises(InvalidStageError, match=r"found\.json is not the file that was written"):
        output.require_content()
    assert store.set_invalid_aside(KEY, STAGE) is not None
    assert store.valid(KEY, STAGE) is None
    assert store.set_invalid_aside(KEY, STAGE) is None


def test_only_the_output_that_was_looked_at_is_set_aside_as_stale(store: StageStore) -> None:
    old = write(store)
    aside = store.set_stale_aside(old)
    assert aside is not None
    assert aside.name.startswith("generate.stale-")
    new = write(store, finished="2026-01-02T00:00:00+00:00")
    assert store.set_stale_aside(old) is None
    assert store.valid(KEY, STAGE) is not None
    # A valid one is never set aside as damaged.
    assert store.set_invalid_aside(KEY, STAGE) is None
    assert (new.path / "found.json").exists()


def test_links_and_the_like_do_not_become_part_of_an_output(store: StageStore) -> None:
    attempt = store.new_attempt(KEY, STAGE)
    (attempt / "inner").mkdir()
    for place in (attempt, attempt / "inner"):
        (place / "link").symlink_to("/etc/passwd")
        (place / "directory").symlink_to("/etc")
        os.mkfifo(place / "pipe")
    output = store.place(attempt, record())
    assert output.record.files == {}
    assert Path("/etc/passwd").exists()
    assert sorted(os.listdir(output.path)) == ["inner", RECORD]


def test_the_name_of_the_record_is_reserved(store: StageStore) -> None:
    attempt = store.new_attempt(KEY, STAGE)
    (attempt / RECORD).write_text("{}")
    with pytest.raises(InvalidStageError, match="reserved"):
        store.place(attempt, record())


def test_an_output_may_have_several_keys(store: StageStore) -> None:
    output = write(store)
    other = store.copy(output, record(key=OTHER))
    other.require_content()
    assert other.record.files == output.record.files
    assert other.path == store.path(OTHER, STAGE)


def _leave(directory: str) -> None:
    StageStore(Path(directory)).new_attempt(KEY, STAGE)


def test_what_a_killed_writer_has_left_is_removed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_leave, args=(str(tmp_path / "run"),)
    )
    process.start()
    process.join()
    store = StageStore(tmp_path / "run")
    ours = store.new_attempt(KEY, STAGE)
    assert names(store) == [ours.name]
    # That of another machine may still be written to; after a week it is not.
    elsewhere = ours.with_name(".generate.elsewhere-1-1-00000000.tmp")
    elsewhere.mkdir()
    store.remove_leftovers(KEY)
    assert elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    store.remove_leftovers(KEY)
    assert names(store) == [ours.name]


def test_secrets_do_not_get_into_the_record(store: StageStore) -> None:
    attempt = store.new_attempt(KEY, STAGE)
    told = StageRecord(**{**vars(record()), "provenance": {"command": ["hf_" + "a" * 34]}})
    store.place(attempt, told)
    found = store.valid(KEY, STAGE)
    assert found is not None
    assert found.record.provenance == {"command": ["[redacted]"]}
