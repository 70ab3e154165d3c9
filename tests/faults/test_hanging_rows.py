"""A row that hangs, in its own process or in the model's, fails; the shard goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from oellm.manifest.model_key import ModelKey, model_key
from oellm.manifest.rows import Row
from oellm.worker import model_process, model_service, time_limit
from oellm.worker.row_contents import RowContents
from oellm.worker.time_limit import RowLimit, Stopwatch
from support.faulty_model import FaultyModel
from support.processes import DEMO_TASKS, Run
from support.task_files import write_task

CODE = """
import time

import datasets


def load(**_):
    documents = [{"text": "What shines?", "choices": ["the moon", "the sun"], "answer": 1}] * 4
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})


def hangs(**_):
    time.sleep(3600)


def hangs_when_scored(*_):
    time.sleep(3600)
"""


@pytest.mark.slow
def test_a_hanging_row_fails_and_the_next_begins(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    model = FaultyModel(tiny_model, tmp_path / "hangs")
    model.set_pace(3600)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "tasks.py").write_text(CODE)
    choice = {"doc_to_choice": '"{{choices}}"', "doc_to_target": '"{{answer}}"'}
    write_task(tasks, "sound", **choice)
    write_task(tasks, "hangs", custom_dataset="!function tasks.hangs")
    hangs = "!function tasks.hangs_when_scored"
    write_task(tasks, "hangs_when_scored", process_results=hangs, **choice)
    header = "model_path,task_path,n_shot,include_path,trust_remote_code,row_timeout\n"
    rows = [
        f"{tiny_model},hangs,0,{tasks},,00:00:05\n",
        f"{tiny_model},hangs_when_scored,0,{tasks},,00:00:05\n",
        f"{tiny_model},sound,0,{tasks},,\n",
        f"{model.directory},oellm_choice,0,{DEMO_TASKS},true,00:00:05\n",
        f"{model.directory},oellm_prose,0,{DEMO_TASKS},true,00:00:05\n",
        f"{tiny_model},oellm_choice,0,{DEMO_TASKS},,\n",
    ]
    record = json.loads(
        run("oe-render", "--cluster=local", "--run_dir=run", stdin=header + "".join(rows)).stdout
    )
    directory = Path(record["run_dir"])
    # One shard has them all, whatever the plan is.
    jobs = directory / "jobs.csv"
    lines = jobs.read_text().splitlines()
    jobs.write_text("\n".join([lines[0], *(f"{line.rpartition(',')[0]},0" for line in lines[1:])]))
    done = run("oe-run-task", f"--run_dir={directory}", "--shard=0", status=1)
    assert "2 rows evaluated, 0 already had results, 4 failed\n" in done.stderr, done.stderr
    failures = {}
    for path in (directory / "failures").iterdir():
        ours: dict[str, Any] = json.loads(path.read_text())["oellm"]
        failures[ours["row"]["task_path"]] = ours["failure"]
    assert {failure["class"] for failure in failures.values()} == {"RowTimeout"}
    where = {
        "hangs": "its process hangs before it asked the model",
        "hangs_when_scored": "its process hangs after the model's answers",
        "oellm_choice": "the model has answered nothing",
        "oellm_prose": "the model has answered nothing",
    }
    for task, text in where.items():
        message = failures[task]["message"]
        assert message.startswith("it took longer than 5 s, and "), message
        assert text in message
        assert message.endswith("set row_timeout (a setting, and a column of the manifest)")
    # The model's process was ended each time.
    assert len({batch.pid for batch in model.batches()}) == 2


def test_waiting_for_other_rows_is_no_part_of_a_rows_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("oellm.worker.time_limit.time.monotonic", lambda: now)
    watch = Stopwatch()
    assert watch.seconds_left == math.inf
    watch.start(RowLimit(10))
    now = 4
    watch.pause()
    now = 1000
    assert watch.seconds_left == math.inf
    watch.resume()
    now = 1005
    watch.resume()
    assert watch.seconds_left == 1
    # What the user has set is a limit whatever the model does; an estimate may be wrong.
    watch.note_progress()
    assert watch.seconds_left == 1
    watch.start(RowLimit(10, is_estimate=True))
    now = 1014
    watch.note_progress()
    assert watch.seconds_left == 10


class Process:
    """Stands in for the model's process, which never comes to the end of loading."""

    def __init__(self) -> None:
        self.child = self
        self.key: ModelKey | None = None
        self.is_busy = False
        self.says: list[object] = []

    def load(self, request: model_process.LoadRequest) -> None:
        self.key, self.is_busy = request.key, True

    def receive(self) -> object:
        return self.says.pop()

    def kill(self) -> None:
        pass


@pytest.mark.parametrize(
    ("longest", "limit"), [(30.0, 3600.0), (7200.0, 7200.0), (math.inf, math.inf)]
)
def test_loading_may_take_as_long_as_the_longest_row_and_copying_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: float, limit: float
) -> None:
    now = 0.0
    process = Process()
    monkeypatch.setattr("oellm.worker.time_limit.time.monotonic", lambda: now)
    monkeypatch.setattr(model_service, "ModelProcess", lambda: process)
    contents = RowContents(None, print)
    service = model_service.ModelService(tmp_path, contents, print, status=None)
    row = Row({"model_path": "acme/a", "task_path": "t", "eval_suite": "lm_eval"})
    key = model_key(row)
    service.longest_rows[key] = longest
    service.load(key, row)
    now = 10.0
    assert service.seconds_to_load() == limit - 10
    process.says = [model_process.Staging(is_over=True), model_process.Staging(is_over=False)]
    service.receive()
    now = 1e6
    service.end_overdue_loading()
    assert service.has_process
    service.receive()
    assert service.seconds_to_load() == limit - 10
    now += 1e5
    service.end_overdue_loading()
    assert service.has_process == (limit == math.inf)
    if limit < math.inf:
        message = service.unloadable[key].message
        assert message.startswith(f"the model did not load: it took longer than {limit / 3600:.0f}")


@pytest.mark.parametrize(
    ("setting", "column", "seconds"),
    [
        ("", "", 3600),
        ("02:00:00", "", 7200),
        ("02:00:00", "00:00:30", 30),
        ("0", "", math.inf),
        ("", "0", math.inf),
    ],
)
def test_the_limit_is_the_columns_else_the_settings_else_that_of_the_plan(
    run: Run, setting: str, column: str, seconds: float
) -> None:
    from oellm.runs import run_directory

    rows = f"model_path,task_path,n_shot,row_timeout\nacme/a,mmlu,0,{column}\n"
    command = ("oe-render", "--cluster=local", f"--set=row_timeout={setting}")
    directory = json.loads(run(*command, stdin=rows).stdout)["run_dir"]
    loaded = run_directory.load_run(directory)
    (row,) = loaded.rows()
    limit = time_limit.find_limit(row, time_limit.find_default(loaded, 0))
    assert limit == RowLimit(seconds, is_estimate=not setting and not column)


def test_a_plan_with_long_rows_gives_them_ten_times_their_estimate(run: Run) -> None:
    rows = "model_path,task_path,n_shot,n_docs,model_bytes\nacme/a,mmlu,0,90000000,9000000000\n"
    (shard,) = json.loads(run("oe-render", "--cluster=local", stdin=rows).stdout)["shards"]
    assert 8 * shard["estimate_s"] < shard["row_timeout_s"] <= 10 * shard["estimate_s"]
