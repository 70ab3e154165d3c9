"""A run directory: its record is read into types, and written back without loss."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm.errors import InputError
from oellm.runs import run_directory
from oellm.runs.run_record import Executor, Submission
from support.golden_files import GOLDEN

OLD_RUN = GOLDEN / "contract" / "run"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Copy the golden run directory."""
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


@contextlib.contextmanager
def stdin(text: str) -> Iterator[io.StringIO]:
    yield io.StringIO(text)


def test_an_old_record_is_written_back_as_it_was(run_dir: Path) -> None:
    path = run_dir / "run.json"
    content = json.loads(path.read_text())
    # A later version may add keys.
    content["later"] = {"key": 1}
    path.write_text(json.dumps(content))
    run = run_directory.load_run(run_dir)
    # The directory was moved; all else stays.
    content["run_dir"] = str(run_dir)
    assert run.to_json() == content
    assert list(run.to_json()) == list(content)
    assert [array.to_json() for array in run.arrays] == content["arrays"]
    assert [shard.to_json() for shard in run.shards] == content["shards"]
    assert run.arrays is run.arrays
    run.save()
    assert json.loads(path.read_text()) == content


def with_second_stages(run_dir: Path, **changed: object) -> None:
    """Give each row of the golden run a second stage, in an array that follows the first."""
    path = run_dir / "run.json"
    content = json.loads(path.read_text())
    first, count = content["arrays"][0], len(content["shards"])
    second = {**first, "script": "evaluate.sbatch", "gpus": 0, "first_shard": count, "follows": 0}
    content["arrays"].append({**second, "cpus": 4, "memory_gib": 8, **changed})
    content["shards"] += [
        {**shard, "index": count + number, "array": 1}
        for number, shard in enumerate(content["shards"][: first["elements"]])
    ]
    path.write_text(json.dumps(content))
    header, *lines = (run_dir / "jobs.csv").read_text().splitlines()
    rows = [f"{line},{count + int(line.rpartition(',')[2])}" for line in lines]
    (run_dir / "jobs.csv").write_text("\n".join([f"{header},evaluate_shard", *rows, ""]))


def test_a_row_with_two_stages_belongs_to_two_shards(run_dir: Path) -> None:
    rows = {shard.index: 0 for shard in run_directory.load_run(run_dir).shards}
    for row in run_directory.load_run(run_dir).rows():
        rows[int(row["shard"])] += 1
    with_second_stages(run_dir)
    run = run_directory.load_run(run_dir)
    assert run.arrays[0].follows is None
    assert run.arrays[1].follows == 0
    assert [array.to_json() for array in run.arrays] == run.to_json()["arrays"]
    for shard, count in rows.items():
        first, second = list(run.rows(shard)), list(run.rows(len(rows) + shard))
        assert len(first) == count
        assert first == second
        assert {run.evaluate_shard_of(row) for row in first} == {len(rows) + shard}


def test_arrays_and_shards_of_second_stages_that_fit_nothing(run_dir: Path) -> None:
    before = (run_dir / "run.json").read_text(), (run_dir / "jobs.csv").read_text()
    for wrong in ({"follows": 1}, {"follows": -1}, {"follows": 7}, {"elements": 9}):
        (run_dir / "run.json").write_text(before[0])
        (run_dir / "jobs.csv").write_text(before[1])
        with_second_stages(run_dir, **wrong)
        with pytest.raises(InputError, match="arrays: follows: expected an array before it"):
            list(run_directory.load_run(run_dir).rows())
    (run_dir / "run.json").write_text(before[0])
    (run_dir / "jobs.csv").write_text(before[1])
    with_second_stages(run_dir)
    lines = (run_dir / "jobs.csv").read_text().splitlines()
    for wrong_shard in ("0", "99", "x"):
        line = f"{lines[1].rpartition(',')[0]},{wrong_shard}"
        (run_dir / "jobs.csv").write_text("\n".join([lines[0], line, *lines[2:], ""]))
        with pytest.raises(InputError, match=r"csv:2: evaluate_shard: expected "):
            list(run_directory.load_run(run_dir).rows())


def test_submissions_are_written_as_they_are_read(run_dir: Path) -> None:
    run = run_directory.load_run(run_dir)
    submitted = "2024-01-15T14:30:45+00:00"
    known = {"array": 0, "elements": (0, 2), "offset": 0, "submitted": submitted}
    local = Submission(Executor.LOCAL, 99, **known)
    slurm = Submission(Executor.SLURM, None, **known, comment="oellm:x:1", command=("sbatch", "s"))
    run.submissions.extend([local, slurm])
    run.save()
    again = run_directory.load_run(run_dir)
    assert again.submissions[-2:] == [local, slurm]
    entry = {"array": 0, "elements": [0, 2], "offset": 0, "submitted": submitted}
    assert again.content["jobs"][-2:] == [
        {"executor": "local", "job_id": 99, **entry},
        {
            "executor": "slurm",
            "job_id": None,
            **entry,
            "comment": "oellm:x:1",
            "command": ["sbatch", "s"],
        },
    ]


@pytest.mark.parametrize(
    ("key", "damage", "reason"),
    [
        ("arrays", {"workers": 0}, "workers: expected a positive number, got 0"),
        ("arrays", {"elements": "1"}, "elements: expected int, got '1'"),
        ("arrays", None, "expected an object, got None"),
        ("shards", {"index": True}, "index: expected int, got True"),
        ("jobs", {"elements": [[]]}, "expected an integer, got []"),
        ("jobs", {"submitted": "yesterday"}, "Invalid isoformat string: 'yesterday'"),
        ("jobs", {"executor": "cloud"}, "'cloud' is not a valid Executor"),
        ("jobs", {"elements": "01"}, "elements: expected a list, got '01'"),
        ("jobs", {"command": None}, "command: expected a list, got None"),
        ("jobs", {"job_id": 2**63}, f"expected an integer, got {2**63}"),
        ("jobs", {"job_id": 0}, "job_id: expected a positive number, got 0"),
        ("jobs", [], "expected an object, got []"),
        ("arrays", {"script": "../x"}, "script: expected the name of a file, got '../x'"),
        ("arrays", {"gpus": -1}, "gpus: expected a non-negative number, got -1"),
    ],
)
def test_a_damaged_part_of_the_record_is_bad_input(
    run_dir: Path, key: str, damage: object, reason: str
) -> None:
    path = run_dir / "run.json"
    content = json.loads(path.read_text())
    content[key] = [content[key][0] | damage if isinstance(damage, dict) else damage]
    path.write_text(json.dumps(content))
    run = run_directory.load_run(run_dir)
    with pytest.raises(InputError) as error:
        _ = run.arrays, run.shards, run.submissions
    assert str(error.value) == f"{path}: {key}: damaged: {reason}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_rows": "3"}, "n_rows: expected an integer, got '3'"),
        ({"n_rows": True}, "n_rows: expected an integer, got True"),
        ({"n_rows": -1}, "n_rows: expected a non-negative integer, got -1"),
        ({"created": "then"}, "created: Invalid isoformat string: 'then'"),
        ({"run_dir": None}, "run_dir: expected text, got None"),
        ({"worker": []}, "worker: expected an object, got []"),
        ({"worker": {"sha256": 1}}, "worker.sha256: expected text, got 1"),
        ({"images": [1]}, "images: expected objects, got 1"),
        ({"plan": {"gpu_hours": "1"}}, "plan.gpu_hours: expected a number, got '1'"),
        ({"cluster": {"queue_limit": "9"}}, "cluster.queue_limit: expected an integer, got '9'"),
        ({"cluster": {"env": {"A": []}}}, "cluster.env: expected texts or numbers, got []"),
        ({"arrays": {}}, "arrays: expected a list, got {}"),
    ],
)
def test_a_member_of_another_type_is_bad_input(
    run_dir: Path, changed: dict[str, object], message: str
) -> None:
    path = run_dir / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError) as error:
        run_directory.load_run(run_dir)
    assert str(error.value) == f"{path}: {message}"


def test_parts_that_do_not_fit_together_are_bad_input(run_dir: Path) -> None:
    path = run_dir / "run.json"
    whole = json.loads(path.read_text())
    for key, change, message in (
        ("shards", {"index": 1}, "shards: expected index 0, got 1"),
        ("shards", {"array": 1}, "shards: expected an array, got 1"),
        ("shards", {"element": -1}, "shards: expected an element, got -1"),
        ("arrays", {"elements": 10**12}, "arrays: they have more elements than the 1 shards"),
    ):
        path.write_text(json.dumps(whole | {key: [whole[key][0] | change]}))
        with pytest.raises(InputError, match=message):
            _ = run_directory.load_run(run_dir).shards


def test_a_record_that_is_no_file_is_bad_input(run_dir: Path) -> None:
    (run_dir / "run.json").unlink()
    os.mkfifo(run_dir / "run.json")
    with pytest.raises(InputError, match=r"run.json: it is a named pipe, not a regular file"):
        run_directory.load_run(run_dir)


def test_a_record_that_lacks_a_key_or_names_no_array_is_bad_input(run_dir: Path) -> None:
    path = run_dir / "run.json"
    whole = json.loads(path.read_text())
    for key, part, reason in (
        ("shards", "rows", "the key 'rows' is missing"),
        ("jobs", "offset", "the key 'offset' is missing"),
    ):
        lacking = {name: value for name, value in whole[key][0].items() if name != part}
        path.write_text(json.dumps({**whole, key: [lacking]}))
        run = run_directory.load_run(run_dir)
        with pytest.raises(InputError, match=f"{key}: damaged: {reason}"):
            _ = run.shards, run.submissions
    path.write_text(json.dumps({**whole, "arrays": []}))
    with pytest.raises(InputError, match="jobs: expected the number of an array, got 0"):
        _ = run_directory.load_run(run_dir).submissions
    for key in ("cluster", "plan"):
        path.write_text(json.dumps({**whole, key: []}))
        with pytest.raises(InputError, match=f"{key}: expected an object"):
            run_directory.load_run(run_dir)


def test_parts_of_the_record_that_a_later_version_extends_are_read(run_dir: Path) -> None:
    path = run_dir / "run.json"
    content = json.loads(path.read_text())
    for part in (*content["arrays"], *content["shards"]):
        part["later"] = 1
    path.write_text(json.dumps(content))
    run = run_directory.load_run(run_dir)
    assert run.shards[0].index == 0
    assert run.arrays[0].script == content["arrays"][0]["script"]


@pytest.mark.parametrize("path", [None, "-"])
def test_a_run_object_on_stdin_names_the_directory(run_dir: Path, path: str | None) -> None:
    content = json.loads((run_dir / "run.json").read_text()) | {"run_dir": str(run_dir)}
    run = run_directory.open_run(path, lambda: stdin(json.dumps(content)))
    assert run.path == run_dir


def test_a_directory_is_opened_without_reading_stdin(run_dir: Path) -> None:
    def fail() -> contextlib.AbstractContextManager[io.StringIO]:
        raise AssertionError("stdin was opened")

    assert run_directory.open_run(str(run_dir), fail).path == run_dir
    with pytest.raises(InputError, match="none: no such directory"):
        run_directory.open_run(str(run_dir / "none"), fail)
    with pytest.raises(InputError, match="got a file; a run object goes to stdin"):
        run_directory.open_run(str(run_dir / "run.json"), fail)
