"""Damaged failures, counts of time-outs and answers cost a worker nothing but what they say."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.runs.answers import Answers
from oellm.runs.result_store import ResultStore
from oellm.worker import requeues
from support.damage import damaged
from support.processes import DEMO_TASKS, Run

RECORD: dict[str, Any] = {
    "oellm": {
        "eval_id": "a",
        "status": "failed",
        "row": {"task_path": "t"},
        "timing": {"finished": "2026-01-01T00:00:00+00:00"},
        "failure": {"class": "E", "message": "m", "traceback": "", "attempts": 3, "log": "l"},
    }
}


def test_a_damaged_failure_costs_no_more_than_its_count(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.failure_path("a")
    path.parent.mkdir()
    counts = set()
    for content in damaged(RECORD):
        path.write_text(json.dumps(content))
        store.failure("a")
        fresh = json.loads(json.dumps(RECORD))
        store.write_failure(fresh)
        attempts = json.loads(path.read_text())["oellm"]["failure"]["attempts"]
        assert isinstance(attempts, int), content
        counts.add(attempts)
    assert counts >= {1, 4}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    "content",
    [
        "",
        "4711",
        "4711 x",
        "4711 99999999999",
        "4711 999",
        "4711 -1",
        "\xff\xfe",
        "4711 1 2",
        "x 9",
    ],
)
def test_a_damaged_count_neither_ends_a_job_nor_lets_it_go_on_for_ever(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "stops" / "0"
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    assert requeues.count_timeout(tmp_path, 0, made_progress=False, limit=2)
    assert path.read_text().startswith("4711 ")


def _directory(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


def _file_above(path: Path) -> None:
    path.parent.write_text("")


def _pipe(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("/dev/zero")


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("spoil", [_directory, _file_above, _pipe, _link])
def test_a_count_that_cannot_be_kept_is_that_of_slurm(tmp_path: Path, spoil: Any) -> None:
    spoil(tmp_path / "stops" / "0")
    assert requeues.count_timeout(tmp_path, 0, made_progress=True, limit=0)
    assert requeues.count_timeout(tmp_path, 0, made_progress=False, limit=2)
    if spoil in (_directory, _file_above):
        assert not requeues.count_timeout(tmp_path, 0, made_progress=False, limit=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_made_up_answers_are_no_answers_or_of_the_right_type(value: Any) -> None:
    log: list[str] = []
    answers = Answers(Path("/nowhere"), "a", origin="o", log=log.append)
    content = json.dumps(value).encode()
    line = b"%s %s" % (answers._checksum(content), content)

    def read() -> Iterator[bytes]:
        yield line

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr("oellm.runs.answers._lines", lambda _: read())
        found = answers.read_earlier()
    for answer in found.values():
        parts = answer if isinstance(answer, tuple) else (answer,)
        assert {type(part) for part in parts} <= {int, float, str, bool}


@pytest.mark.slow
def test_a_shard_is_evaluated_whatever_its_directories_hold(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    rows = "model_path,task_path,n_shot,include_path\n"
    # No task has that many documents for examples, so the second row fails.
    rows += "".join(f"{tiny_model},oellm_choice,{shots},{DEMO_TASKS}\n" for shots in (0, 9999))
    directory = json.loads(run("oe-render", "--cluster=local", stdin=rows).stdout)["run_dir"]
    path = Path(directory)
    with open(path / "jobs.csv", newline="") as stream:
        ids = [row["eval_id"] for row in csv.DictReader(stream)]
    for name in ("progress", "failures", "stops", "answers", *(f"answers/{one}" for one in ids)):
        (path / name).mkdir()
    (path / "progress" / "0.json").write_text('{"attempts": null}')
    (path / "failures" / f"{ids[0]}.json").write_text('{"oellm": null}')
    os.mkfifo(path / "failures" / f"{ids[1]}.json")
    os.mkfifo(path / "answers" / ids[0] / "pipe")
    (path / "answers" / ids[0] / "zero").symlink_to("/dev/zero")
    (path / "answers" / ids[0] / "line").write_bytes(b"\0" * 10**6)
    done = run("oe-run-task", f"--run_dir={directory}", "--shard=0", status=1)
    assert "1 rows evaluated, 0 already had results, 1 failed\n" in done.stderr
