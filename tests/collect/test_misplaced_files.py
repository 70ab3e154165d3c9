"""Files that users name: what is no result is told from what is damaged, and what to do instead."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.golden_files import GOLDEN
from support.golden_run import make_run
from support.processes import Run

LINES = (GOLDEN / "contract" / "results.jsonl").read_text()
RESULT = {
    "results": {"arc": {"alias": "arc", "acc,none": 0.5}},
    "configs": {"arc": {}},
    "config": {"model": "hf", "model_args": "pretrained=a/b"},
}
MANIFEST = "model_path,task_path,n_shot\na/b,arc,0\n"


def test_a_healthy_directory_gives_status_0(run: Run, tmp_path: Path) -> None:
    (tmp_path / "results_1.json").write_text(json.dumps(RESULT))
    (tmp_path / "samples_arc_1.json").write_text('{"doc_id":0,"acc":1.0}\n{"doc_id":1,"acc":0}\n')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "vocab.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "directory.json").mkdir()
    # What the first stage of a row has written, which may look like anything.
    output = tmp_path / "stages" / ("0" * 16) / "generate"
    (output / "humaneval").mkdir(parents=True)
    for name in ("stage.json", "generations.json", "humaneval/results.json"):
        (output / name).write_text(json.dumps(RESULT))
    done = run("oe-collect", "--columns=task,value", tmp_path)
    assert done.stdout == "task,value\narc,0.5\n"
    assert done.stderr == "oe-collect: skipped 4 JSON files that are not results\n"


def test_a_file_too_large_to_be_read_is_damaged_if_named_like_a_result(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "results_1.json").write_text(json.dumps(RESULT))
    # Spring 2024's JSON lines, here with holes instead of text.
    for name in ("samples_humaneval_2024-05-01T10-00-00.0.json", "tokenizer.json"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 300 * 10**6)
    done = run("oe-collect", "--columns=task,value", tmp_path)
    assert done.stdout == "task,value\narc,0.5\n"
    assert done.stderr == "oe-collect: skipped 2 JSON files that are not results\n"
    large = tmp_path / "results_2.json"
    large.touch()
    os.truncate(large, 300 * 10**6)
    done = run("oe-collect", "--columns=task,value", tmp_path, status=1)
    assert done.stderr.startswith(f"oe-collect: {large}: left out, it has 300 MB")


def test_a_healthy_directory_of_predictions_gives_status_0(run: Run, tmp_path: Path) -> None:
    predicted = {**RESULT, "results": {"arc": {"bypass,none": 999}}}
    path = tmp_path / "results_1.json"
    path.write_text(json.dumps(predicted))
    (tmp_path / "config.json").write_text("{}")
    done = run("oe-collect", tmp_path)
    assert done.stdout.count("\n") == 1
    assert done.stderr == (
        f"oe-collect: {path}: arc was predicted, not scored\n"
        "oe-collect: skipped 1 JSON file that is not a result\n"
    )


def test_a_prediction_does_not_replace_a_score(run: Run, tmp_path: Path) -> None:
    scored, predicted = {**RESULT, "date": 1.0}, {**RESULT, "date": 2.0}
    predicted["results"] = {"arc": {"bypass,none": 999}}
    (tmp_path / "results_1.json").write_text(json.dumps(scored))
    (tmp_path / "results_2.json").write_text(json.dumps(predicted))
    assert run("oe-collect", "--columns=value", tmp_path).stdout == "value\n0.5\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ("version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the file"),
        (json.dumps(RESULT)[:40], "it is not JSON: "),
        (json.dumps(RESULT).replace("0.5", "NaN"), "no metric has a finite value: acc of arc is"),
    ],
)
def test_a_damaged_result_is_named_and_gives_status_1(
    run: Run, tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "results_1.json").write_text(json.dumps(RESULT))
    damaged = tmp_path / "results_2.json"
    damaged.write_text(content)
    done = run("oe-collect", "--columns=value", tmp_path, status=1)
    assert done.stdout == "value\n0.5\n"
    assert done.stderr.startswith(f"oe-collect: {damaged}: left out, {reason}")


def test_the_model_of_a_result_without_one_can_be_given(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "results_1.json"
    path.write_text(json.dumps({**RESULT, "config": {"model": "<a.B object at 0x7f>"}}))
    named = run("oe-collect", "--columns=model_path", "--model=org/m,dtype=float16", path)
    assert named.stdout == 'model_path\n"org/m,dtype=float16"\n'
    assert named.stderr == ""
    guessed = run("oe-collect", "--columns=model_path", path)
    assert guessed.stdout == f"model_path\n{tmp_path.name} (guessed)\n"
    assert f"oe-collect: {path}: names no model; its directory's name" in guessed.stderr
    bad = run("oe-collect", "--model=org/m,x", path, status=2)
    assert bad.stderr.startswith("oe-collect: --model: expected key=value after the model's path")


def test_results_whose_models_are_guessed_do_not_replace_each_other(
    run: Run, tmp_path: Path
) -> None:
    for name, value in (("llama", 0.25), ("mistral", 0.75)):
        scores = {"arc": {"alias": "arc", "acc,none": value}}
        content = {**RESULT, "results": scores, "config": {"model": "HFLM", "model_args": ""}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    done = run("oe-collect", "--columns=value", tmp_path)
    assert done.stdout == "value\n0.25\n0.75\n"
    assert "newer" not in done.stderr
    # If the user says that both are of one model, they are.
    named = run("oe-collect", "--columns=value", "--model=org/m", tmp_path)
    assert len(named.stdout.splitlines()) == 2


def test_a_note_on_many_results_fills_no_screen(run: Run, tmp_path: Path) -> None:
    for number in range(30):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "results_1.json").write_text(json.dumps({**RESULT, "config": {}}))
    done = run("oe-collect", tmp_path)
    assert len(done.stdout.splitlines()) == 31
    *named, last = done.stderr.splitlines()
    assert (len(named), last) == (20, "oe-collect: and 10 more notes of this kind")


@pytest.mark.parametrize("command", ["oe-collect", "oe-pivot", "oe-missing"])
def test_a_manifest_among_results_says_what_to_do(run: Run, tmp_path: Path, command: str) -> None:
    weekly = tmp_path / "weekly.csv"
    weekly.write_text(MANIFEST)
    run_dir = make_run(tmp_path / "run")
    done = run(command, weekly, run_dir, status=2)
    assert done.stdout == ""
    hint = "oe-missing --in=DIR prints its rows that have no result"
    text = f"expected results, got a manifest; {hint}"
    assert done.stderr == f"{command}: {weekly}: {text}\n"
    assert text in run(command, stdin=MANIFEST, status=2).stderr


def test_files_may_hold_what_commands_print(run: Run, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    lines, submitted = tmp_path / "lines.jsonl", tmp_path / "submitted.json"
    lines.write_text(LINES)
    for command in ("oe-collect", "oe-missing"):
        options = {"status": 1} if command == "oe-collect" else {}
        submitted.write_text(json.dumps({"run_dir": str(run_dir)}) + "\n")
        expected = run(command, run_dir).stdout
        assert run(command, submitted).stdout == expected
        assert run(command, run_dir / "run.json").stdout == expected
        if command == "oe-collect":
            printed = run(command, stdin=LINES, **options)
            assert run(command, lines, **options).stdout == printed.stdout
    refused = run("oe-missing", tmp_path / "no.csv", status=2)
    assert "no such file" in refused.stderr
    records = tmp_path / "records.csv"
    records.write_text(run("oe-collect", run_dir).stdout)
    refused = run("oe-missing", records, status=2)
    assert refused.stderr == f"oe-missing: {records}: expected runs, got metric records\n"
