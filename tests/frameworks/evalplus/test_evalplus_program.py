"""evalplus: which rows are refused and why, what is started, and which outputs count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError
from oellm.frameworks.evalplus import results
from oellm.frameworks.evalplus.program import create_program
from oellm.frameworks.program import Command, InvalidOutputError, NeededFile
from oellm.frameworks.stages import EVALUATE, GENERATE
from support.stage_outputs import make_command, make_row, write_json, write_lines

PROGRAM = create_program()
FILES = {"HumanEvalPlus.jsonl.gz": "/cache/he.gz", "MbppPlus.jsonl.gz": "/cache/mbpp.gz"}
PROBLEMS = ["HumanEval/0", "HumanEval/1", "HumanEval/2"]


def row(task: str = "humaneval", **cells: str) -> Any:
    return make_row("evalplus", task, **cells)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"n_shot": "1"}, "n_shot: evalplus has no few-shot examples"),
        ({"backend": "sglang"}, "backend: evalplus has hf, vllm, openai, got 'sglang'"),
        ({"backend": "openai"}, "backend: openai needs base_url in model_args"),
        ({"model_args": "base_url=http://x"}, "backend: openai needs base_url"),
        ({"gen_kwargs": "n_sampels=2"}, "'n_sampels', did you mean n_samples?"),
        ({"gen_kwargs": "top_p=0.9"}, "gen_kwargs: evalplus has no setting top_p: it is 0.95"),
        ({"gen_kwargs": "n_samples=2"}, "n_samples above 1 are all alike with temperature 0"),
        ({"gen_kwargs": "temperature=-1"}, "temperature: expected a number of 0 or more, got '-1'"),
        ({"seed": "1"}, "seed: evalplus sets no seed"),
        ({"apply_chat_template": "llama"}, "apply_chat_template: expected true or false"),
        ({"dtype": "fp16"}, "dtype: expected one of bfloat16, float16, float32, got 'fp16'"),
        ({"limit": "0.5", "include_path": "/rows"}, "limit: expected a number of problems"),
    ],
)
def test_a_row_is_refused_for_what_evalplus_would_ignore(
    cells: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=rf"^m\.csv:2: .*{message}"):
        PROGRAM.check(row(**cells))


@pytest.mark.parametrize(
    "cells",
    [
        {"n_shot": "0", "limit": "0.5", "apply_chat_template": "true", "batch_size": "auto"},
        {"backend": "openai", "model_args": "base_url=http://127.0.0.1:8000/v1"},
        {"backend": "vllm", "gen_kwargs": "n_samples=10,temperature=0.8", "tp": "2"},
        {"task_path": "mbpp", "include_path": "/rows", "limit": "5"},
    ],
)
def test_a_row_that_evalplus_can_do_is_accepted(cells: dict[str, str]) -> None:
    PROGRAM.check(row(**cells))


def paths(command: Command) -> dict[str, str]:
    """Return the paths that the launcher gets, by name."""
    return dict(zip(command.argv[3::2], command.argv[4::2], strict=True))


def test_the_problems_are_the_files_that_evalplus_would_download_or_the_users_own() -> None:
    (need,) = PROGRAM.needs(row("mbpp"))
    assert isinstance(need, NeededFile)
    assert need.url.endswith("/mbppplus_release/releases/download/v0.2.0/MbppPlus.jsonl.gz")
    assert not PROGRAM.needs(row("mbpp", include_path="/rows"))
    assert PROGRAM.problem_files("mbpp") == ("MbppPlus.jsonl",)
    command = make_command(PROGRAM, row("mbpp"), EVALUATE, files=FILES)
    assert paths(command)["problems"] == "/cache/mbpp.gz"
    files = {**FILES, "MbppPlus.jsonl": "/own/MbppPlus.jsonl"}
    own = make_command(PROGRAM, row("mbpp", include_path="/rows"), EVALUATE, files=files)
    assert paths(own)["problems"] == "/own/MbppPlus.jsonl"
    with pytest.raises(
        InputError, match=r"include_path: expected a directory with MbppPlus\.jsonl"
    ):
        make_command(PROGRAM, row("mbpp", include_path="/rows"), EVALUATE, files=FILES)


def test_the_stages_get_the_settings_of_the_row() -> None:
    asked = row(gen_kwargs="n_samples=4,temperature=0.8", limit="0.5")
    asked = asked.with_cells(apply_chat_template="false", dtype="float32", batch_size="2")
    command = make_command(PROGRAM, asked, GENERATE, files=FILES, gpus=2)
    assert command.argv[1:3] == ("/private/files/launcher.py", "/private/files/options.json")
    options = json.loads(command.files["options.json"])
    assert options["values"] == {
        "backend": "hf",
        "greedy": False,
        "temperature": 0.8,
        "n_samples": 4,
        "bs": 2,
        "tp": 2,
        "force_base_prompt": True,
        "dtype": "float32",
        "trust_remote_code": False,
        "attn_implementation": "eager",
    }
    assert (options["limit"], paths(command)["model"]) == (82, "org/model")
    evaluation = make_command(PROGRAM, asked, EVALUATE, files=FILES, cpus=6)
    options = json.loads(evaluation.files["options.json"])
    assert (paths(evaluation)["samples"], options["values"]) == (
        "/in/samples.jsonl",
        {"parallel": 6},
    )
    # Each program may use 4 GiB of memory and of stack, or it fails without a word.
    assert evaluation.stack_mib == 4096
    assert evaluation.address_space_gib is None


def _generated(directory: Path, samples: int = 1, problems: list[str] = PROBLEMS) -> Path:
    facts = {"hash": "md5", "problems": problems}
    records = [
        {"task_id": problem, "solution": f"{problem} {index}"}
        for problem in problems
        for index in range(samples)
    ]
    write_lines(directory / "samples.jsonl", records)
    return write_json(directory, {"problems.json": facts})


def _outcomes(directory: Path, passed: dict[str, list[bool]], digest: str = "md5") -> Path:
    content = {
        problem: [
            {
                "task_id": problem,
                "solution": f"{problem} {index}",
                "base_status": "pass" if good else "fail",
                "plus_status": "pass" if good and problem != PROBLEMS[1] else "timeout",
            }
            for index, good in enumerate(each)
        ]
        for problem, each in passed.items()
    }
    result = {"date": "2026-01-02 03:04", "hash": digest, "eval": content}
    return write_json(directory, {"eval_results.json": result})


def test_base_and_plus_tests_are_two_metrics_as_the_reader_computes_them(tmp_path: Path) -> None:
    asked = row(limit="3", gen_kwargs="n_samples=2,temperature=1", log_samples="true")
    passed = {PROBLEMS[0]: [True, False], PROBLEMS[1]: [True, True], PROBLEMS[2]: [False, False]}
    evaluated = _outcomes(tmp_path / "org--model_hf_temp_1.0", passed)
    outputs = {GENERATE: _generated(tmp_path / "g", samples=2), EVALUATE: evaluated}
    for stage in PROGRAM.stages(asked):
        PROGRAM.check_output(asked, stage, outputs[stage.name])
    evaluation = PROGRAM.evaluation(asked, outputs)
    values = {score.filter: score.value for score in evaluation.scores}
    assert values == {"base": pytest.approx(0.5), "plus": pytest.approx(1 / 6)}
    assert all(score.stderr and score.n_samples == 3 for score in evaluation.scores)
    path = evaluated / "eval_results.json"
    (read,) = results.read_scored_rows(json.loads(path.read_bytes()), str(path)) or []
    assert evaluation.scores == read.scores
    assert evaluation.tasks["humaneval"].hash == "md5"
    assert len(evaluation.samples["humaneval"]) == 6
    assert evaluation.native["passed"][PROBLEMS[1]] == {"samples": 2, "base": 2, "plus": 0}


def test_answers_count_only_if_all_are_there(tmp_path: Path) -> None:
    asked = row(limit="3")
    generate = PROGRAM.stages(asked)[0]
    PROGRAM.check_output(asked, generate, _generated(tmp_path / "good"))
    with pytest.raises(InvalidOutputError, match="expected 3 problems, got 2"):
        PROGRAM.check_output(asked, generate, _generated(tmp_path / "two", problems=PROBLEMS[:2]))
    with pytest.raises(InvalidOutputError, match="HumanEval/0: expected 1 samples, got 2"):
        PROGRAM.check_output(asked, generate, _generated(tmp_path / "more", samples=2))
    with pytest.raises(InvalidOutputError, match=r"it has no file problems\.json"):
        PROGRAM.check_output(asked, generate, tmp_path)
    cut = _generated(tmp_path / "cut")
    (cut / "samples.jsonl").write_text('{"task_id": "HumanEval/0", "soluti')
    with pytest.raises(InvalidOutputError, match=r"samples\.jsonl"):
        PROGRAM.check_output(asked, generate, cut)


def test_outcomes_of_other_problems_or_answers_are_no_result(tmp_path: Path) -> None:
    asked = row(limit="3")
    passed = {each: [True] for each in PROBLEMS}
    generated = _generated(tmp_path / "g")
    for name, output, message in (
        ("hash", _outcomes(tmp_path / "1", passed, digest="other"), "other problems"),
        ("fewer", _outcomes(tmp_path / "2", {PROBLEMS[0]: [True]}), "other answers"),
        ("more", _outcomes(tmp_path / "3", {**passed, PROBLEMS[0]: [True] * 2}), "other answers"),
    ):
        with pytest.raises(InvalidOutputError, match=message):
            PROGRAM.evaluation(asked, {GENERATE: generated, EVALUATE: output})
            pytest.fail(name)


@pytest.mark.parametrize("status", [None, "", "passed", 1])
def test_an_outcome_that_is_none_makes_the_output_invalid(tmp_path: Path, status: Any) -> None:
    output = _outcomes(tmp_path, {each: [True] for each in PROBLEMS})
    content = json.loads((output / "eval_results.json").read_bytes())
    content["eval"][PROBLEMS[2]][0]["plus_status"] = status
    write_json(output, {"eval_results.json": content})
    with pytest.raises(InvalidOutputError, match="HumanEval/2: plus_status is"):
        PROGRAM.check_output(row(limit="3"), PROGRAM.stages(row())[1], output)
