"""Collecting results: where they are found, and which of several results of a row counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from support.golden_files import GOLDEN
from support.golden_run import CHOICE, CONTRACT, PROSE, make_run
from support.processes import BIN, Run, clean_environment, rows_of

RESULT = json.loads((CONTRACT / "run" / "results" / f"{CHOICE}.json").read_text())


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "evals" / "ada" / "first")


def edited(path: Path, **ours: Any) -> None:
    """Change keys of our part of a result."""
    result = json.loads(path.read_text())
    result["oellm"] |= ours
    path.write_text(json.dumps(result, indent=2))


def test_runs_are_found_below_a_directory_and_files_in_none(run: Run, run_dir: Path) -> None:
    make_run(run_dir.parents[1] / "bob" / "runs" / "second")
    alone = run_dir.parents[1] / "bob" / "alone.json"
    alone.write_text(json.dumps(RESULT))
    (alone.parent / "config.json").write_text('{"model_type": "llama"}')
    (run_dir / "results" / f"{PROSE}.json").unlink()
    done = run("oe-collect", "--all", run_dir.parents[1])
    found = [
        (row["task"], row["run_dir"]) for row in rows_of(done.stdout) if row["metric"] != "acc"
    ]
    second = str(alone.parent / "runs" / "second")
    assert found == [
        ("oellm_choice", str(run_dir)),
        ("oellm_choice", str(alone)),
        ("oellm_choice", second),
        ("oellm_prose", second),
    ]
    assert done.stderr == (
        "oe-collect: skipped 1 JSON file that is not a result\n"
        "oe-collect: 1 of 3 rows have no valid result\n"
    )
    one = run("oe-collect", alone).stdout
    assert {row["run_dir"] for row in rows_of(one)} == {str(alone)}


def test_a_place_that_is_named_twice_counts_once(run: Run, run_dir: Path) -> None:
    once = run("oe-collect", run_dir).stdout
    (run_dir.parent / "latest").symlink_to(run_dir.name)
    paths = (run_dir, run_dir.parent, run_dir.parent / "latest", f"{run_dir}/")
    assert run("oe-collect", *paths).stdout == once
    line = json.dumps({"run_dir": str(run_dir)}) + "\n"
    assert run("oe-collect", stdin=line * 2).stdout == once


@pytest.mark.slow
def test_the_newest_result_counts_and_the_others_are_named(run: Run, run_dir: Path) -> None:
    newer = make_run(run_dir.parent / "again")
    path = newer / "results" / f"{CHOICE}.json"
    # An hour later, in another zone's spelling.
    edited(path, timing={"finished": "2020-11-22T18:53:33.582+01:00"})
    edited(run_dir / "results" / f"{CHOICE}.json", timing={"finished": "2020-11-22T16:53:33+00:00"})
    for paths in ((run_dir, newer), (newer, run_dir)):
        done = run("oe-collect", "--filter=task=oellm_choice", *paths)
        assert {row["run_dir"] for row in rows_of(done.stdout)} == {str(newer)}
        older = run_dir / "results" / f"{CHOICE}.json"
        text = f"oe-collect: {older}: left out, {path} is a newer result of the same row\n"
        assert text in done.stderr
    assert len(rows_of(run("oe-collect", "--all", newer, run_dir).stdout)) == 6
    # A damaged result is not a newer one.
    path.write_text("{")
    done = run("oe-collect", run_dir, newer, status=1)
    assert [row["run_dir"] for row in rows_of(done.stdout)] == [str(run_dir)] * 2 + [str(newer)]


def test_results_on_stdin_count_once_too(run: Run) -> None:
    older = json.loads(json.dumps(RESULT))
    older["oellm"]["timing"]["finished"] = "2020-01-01T00:00:00+00:00"
    older["oellm"]["provenance"]["run_dir"] = "/old"
    lines = "".join(json.dumps(each) + "\n" for each in (RESULT, older))
    done = run("oe-collect", stdin=lines)
    assert {row["run_dir"] for row in rows_of(done.stdout)} == {"/evals/ada/2024-01-15-14-30-45"}
    assert "oe-collect: /old: left out, " in done.stderr


def test_many_older_results_are_counted_after_the_first_three(run: Run) -> None:
    lines = []
    for day in range(1, 15):
        older = json.loads(json.dumps(RESULT))
        older["oellm"]["timing"]["finished"] = f"2020-01-{day:02}T00:00:00+00:00"
        lines.append(json.dumps(older) + "\n")
    done = run("oe-collect", stdin="".join(lines))
    assert {row["finished"] for row in rows_of(done.stdout)} == {"2020-01-14T00:00:00+00:00"}
    assert done.stderr.count("is a newer result of the same row") == 3
    assert "oe-collect: and 10 more results with a newer one (oe-collect --all" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nothing", "empty", "broken", "other"])
def test_a_place_without_results_is_named(run: Run, tmp_path: Path, what: str) -> None:
    place = tmp_path / what
    if what != "nothing":
        place.mkdir()
    if what == "broken":
        (place / "run.json").write_text("{")
    if what == "other":
        (place / "config.json").write_text('{"model_type": "llama"}')
    done = run("oe-collect", place, status=2)
    reason = {
        "other": f"{place}/config.json: expected a result, got 1 other JSON file",
        "nothing": f"{place}: no such file or directory",
        "empty": f"{place}: not a run directory, and no JSON file below it",
        "broken": f"{place}/run.json: expected JSON: ",
    }
    assert done.stderr.startswith(f"oe-collect: {reason[what]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", "{", "/run.json: expected JSON: "),
        ("jobs.csv", None, ": jobs.csv is missing"),
        ("jobs.csv", "model_path\n", "/jobs.csv:1: eval_id: required column is missing"),
    ],
)
def test_a_run_that_is_damaged_still_gives_its_results(
    run: Run, run_dir: Path, name: str, content: str | None, reason: str
) -> None:
    if content is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_text(content)
    done = run("oe-collect", run_dir.parent, status=1)
    assert f"oe-collect: {run_dir}{reason}" in done.stderr
    assert run("oe-collect", run_dir, status=2).stderr.startswith(f"oe-collect: {run_dir}{reason}")
    assert {row["task"] for row in rows_of(done.stdout)} == {"oellm_choice", "oellm_prose"}


NATIVE = GOLDEN / "native" / "lm_eval-0.4.13-group-and-task"
HEADER = "model_path,task_path,n_shot,language,include_path\n"
TASK = "task: mini_copy\ndataset_path: json\noutput_type: generate_until\n"


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """Return the directory of lm-eval's own result as if its models were below `tmp_path`."""
    directory = tmp_path / "native"
    directory.mkdir()
    for path in NATIVE.glob("results_*.json"):
        text = path.read_text().replace('"models/tiny/', f'"{tmp_path}/models/tiny/')
        (directory / path.name).write_text(text)
    return directory


@pytest.fixture
def tiny_run(run: Run, tmp_path: Path) -> Path:
    """Render four rows; lm-eval's own result in `native` matches the first, and nearly others."""
    models = ("models/tiny/iter_0001000,dtype=float32", "models/tiny/iter_00010000,dtype=float32")
    wanted = [(models[0], "2"), (models[1], "2"), (models[0], "5"), (models[0], "")]
    for model, _ in wanted:
        (tmp_path / model.partition(",")[0]).mkdir(parents=True, exist_ok=True)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mini_copy.yaml").write_text(TASK)
    rows = (f'"{model}",mini_copy,{shots},deu_Latn,{tasks}\n' for model, shots in wanted)
    text = HEADER + "".join(rows)
    directory = tmp_path / "tiny"
    run("oe-render", "--cluster=local", f"--run_dir={directory}", stdin=text)
    return directory


@pytest.mark.slow
def test_a_result_of_lm_eval_counts_for_exactly_the_row_that_it_is_of(
    run: Run, tiny_run: Path, native: Path
) -> None:
    missing = rows_of(run("oe-missing", tiny_run, native).stdout)
    # Missing are iter_00010000, other shots, and a row that leaves the shots to its task.
    assert [
        (Path(row["model_path"].split(",")[0]).name.count("0"), row["n_shot"]) for row in missing
    ] == [
        (7, "2"),
        (6, "5"),
        (6, ""),
    ]
    found = rows_of(run("oe-collect", "--filter=task=mini_copy", tiny_run, native).stdout)
    first = next(iter(rows_of((tiny_run / "jobs.csv").read_text())))
    assert {(row["eval_id"], row["language"]) for row in found} == {(first["eval_id"], "deu_Latn")}
    others = rows_of(run("oe-collect", "--filter=task=mini_law", tiny_run, native).stdout)
    assert {(row["eval_id"], row["language"]) for row in others} == {("", "")}


@pytest.mark.slow
def test_a_result_that_fits_several_rows_counts_for_none(
    run: Run, tmp_path: Path, native: Path
) -> None:
    row = '"models/tiny/iter_0001000,dtype=float32",mini_copy,2,,tasks/'
    text = f"{HEADER}{row}old\n{row}new\n"
    (tmp_path / "models" / "tiny" / "iter_0001000").mkdir(parents=True)
    for name in ("old", "new"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "mini_copy.yaml").write_text(TASK)
    run("oe-render", "--cluster=local", f"--run_dir={tmp_path}/run", stdin=text)
    done = run("oe-missing", tmp_path / "run", native)
    assert len(rows_of(done.stdout)) == 2
    assert "fits 2 rows, so it counts for none" in done.stderr


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of 600 results, more than one process reads at a time."""
    directory = make_run(tmp_path_factory.mktemp("many") / "run")
    header, row, *_ = (directory / "jobs.csv").read_text().splitlines()
    text = (directory / "results" / f"{CHOICE}.json").read_text()
    ids = [f"{number:016x}" for number in range(600)]
    jobs = [row.replace(CHOICE, eval_id) for eval_id in ids]
    (directory / "jobs.csv").write_text("\n".join([header, *jobs]) + "\n")
    for eval_id in ids:
        (directory / "results" / f"{eval_id}.json").write_text(text.replace(CHOICE, eval_id))
    return directory


def test_the_order_is_that_of_the_manifest_in_whichever_process(run: Run, many: Path) -> None:
    parallel = run("oe-collect", "--columns=eval_id,value", many).stdout
    one = min(os.sched_getaffinity(0))
    alone = run("taskset", "-c", str(one), "oe-collect", "--columns=eval_id,value", many).stdout
    assert parallel == alone
    assert [row["eval_id"] for row in rows_of(alone)][::2] == [f"{n:016x}" for n in range(600)]


def test_a_reader_that_goes_away_ends_it_silently(many: Path, tmp_path: Path) -> None:
    pipe = f"{BIN}/oe-collect {many} | head -1; echo ${{PIPESTATUS[0]}}"
    shell = ["bash", "-c", pipe]
    done = subprocess.run(
        shell, env=clean_environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert (done.stdout.splitlines()[1], done.stderr) == ("141", "")


@pytest.mark.slow
def test_files_that_come_and_go_break_nothing(run: Run, many: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(many, directory)
    paths = sorted((directory / "results").iterdir())
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            for path in paths:
                aside = path.with_name(f".{path.name}.tmp")
                path.rename(aside)
                aside.rename(path)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(10):
            found = rows_of(run("oe-collect", "--columns=eval_id", directory).stdout)
            ids = [row["eval_id"] for row in found]
            assert ids == sorted(ids)
            assert len(ids) > 600
    finally:
        stop.set()
        thread.join()
