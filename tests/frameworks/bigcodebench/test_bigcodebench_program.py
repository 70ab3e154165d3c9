"""bigcodebench: which rows are refused and why, what is started, and which outputs count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError
from oellm.frameworks.bigcodebench import results
from oellm.frameworks.bigcodebench.program import create_program
from oellm.frameworks.program import InvalidOutputError, NeededDataSet
from oellm.frameworks.stages import EVALUATE, GENERATE
from oellm.manifest.rows import Row, eval_id
from support.stage_outputs import make_command, make_row, write_json, write_lines

PROGRAM = create_program()
TASK, HARD = "bigcodebench-complete", "bigcodebench-hard-complete"
INSTRUCT = "bigcodebench-instruct"
PROBLEMS = ["BigCodeBench/0", "BigCodeBench/1", "BigCodeBench/2"]
FILES = {name: f"/own/{name}" for name in ("bigcodebench.jsonl", "bigcodebench-hard.jsonl")}
SERVER = {"backend": "openai", "model_args": "base_url=http://127.0.0.1:8000/v1"}


def row(task: str = TASK, **cells: str) -> Row:
    return make_row("bigcodebench", task, **{"backend": "vllm", **cells})


@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        (TASK, {"n_shot": "1"}, "n_shot: bigcodebench has no few-shot examples"),
        (TASK, {"backend": "hf"}, r"backend: bigcodebench 0\.2\.5 needs vllm or openai, got 'hf'"),
        (TASK, {"backend": ""}, "needs vllm or openai, and an empty cell means hf"),
        (TASK, {"backend": "openai"}, "backend: openai needs base_url in model_args"),
        (TASK, {"model_args": "base_url=http://x"}, "backend: openai needs base_url"),
        (TASK, {**SERVER, "model_args": "base_url=file:///x"}, "base_url: expected an address of"),
        (TASK, {"gen_kwargs": "n_sampels=2"}, "'n_sampels', did you mean n_samples?"),
        (TASK, {"gen_kwargs": "top_p=0.9"}, "bigcodebench has no setting top_p: it is 0.95"),
        (TASK, {"gen_kwargs": "n_samples=2"}, "n_samples above 1 are all alike"),
        (TASK, {"gen_kwargs": "greedy=true,temperature=1"}, "greedy=true means temperature 0"),
        (TASK, {"gen_kwargs": "greedy=false"}, "greedy=true means temperature 0, and false"),
        (TASK, {"gen_kwargs": "pass_k=5"}, "pass_k: expected numbers from 1 to n_samples, 1"),
        (TASK, {"gen_kwargs": "pass_k=all"}, "pass_k: expected 1,5,10 or the like, got 'all'"),
        (TASK, {"seed": "1"}, "seed: bigcodebench sets no seed"),
        (TASK, {"system_instruction": "x"}, "system_instruction: bigcodebench has its own"),
        (TASK, {"apply_chat_template": "llama"}, "apply_chat_template: expected true or false"),
        (INSTRUCT, {"apply_chat_template": "false"}, "the split instruct is for chat models"),
        (TASK, {**SERVER, "apply_chat_template": "false"}, "openai always applies one"),
        (TASK, {"dtype": "fp16"}, "dtype: expected one of bfloat16, float16, float32, got 'fp16'"),
        (TASK, {"limit": "0.5", "include_path": "/own"}, "limit: expected a number of problems"),
    ],
)
def test_a_row_is_refused_for_what_bigcodebench_would_ignore(
    task: str, cells: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=rf"^m\.csv:2: .*{message}"):
        PROGRAM.check(row(task, **cells))


@pytest.mark.parametrize(
    ("task", "cells"),
    [
        (TASK, {"n_shot": "0", "limit": "0.5", "apply_chat_template": "false"}),
        (HARD, {"gen_kwargs": '{"n_samples": 10, "temperature": 0.8, "pass_k": "1,10"}'}),
        (INSTRUCT, SERVER),
        ("bigcodebench-hard-instruct", {"include_path": "/own", "limit": "3"}),
    ],
)
def test_a_row_that_bigcodebench_can_do_is_accepted(task: str, cells: dict[str, str]) -> None:
    PROGRAM.check(row(task, **cells))


def test_both_subsets_and_all_evaluations_share_one_generation() -> None:
    whole = eval_id(PROGRAM.generation_row(row()))
    for alike in (
        row(HARD),
        row(n_shot="0"),
        row(HARD, gen_kwargs="calibrated=false"),
        row(gen_kwargs="pass_k=1"),
        PROGRAM.generation_row(row(HARD)),
    ):
        assert eval_id(PROGRAM.generation_row(alike)) == whole
    sampled = row(HARD, gen_kwargs="n_samples=2,temperature=0.5")
    counted = row(gen_kwargs='{"temperature": "0.5", "pass_k": "1", "n_samples": "2"}')
    assert len({eval_id(PROGRAM.generation_row(each)) for each in (sampled, counted)}) == 1
    others = [row(INSTRUCT), sampled, row(limit="3"), row(HARD, limit="3")]
    assert len({whole, *(eval_id(PROGRAM.generation_row(each)) for each in others)}) == 5


def test_the_problems_are_those_of_the_data_sets_or_the_users_own() -> None:
    whole, hard = (
        NeededDataSet(name, split="v0.1.4")
        for name in ("bigcode/bigcodebench", "bigcode/bigcodebench-hard")
    )
    assert PROGRAM.needs(row(INSTRUCT)) == [whole]
    assert PROGRAM.needs(row(HARD)) == [whole, hard]
    assert not PROGRAM.needs(row(HARD, include_path="/own"))
    assert PROGRAM.problem_files(HARD) == ("bigcodebench.jsonl", "bigcodebench-hard.jsonl")
    own = row(HARD, include_path="/own")
    for stage, name in ((GENERATE, "bigcodebench"), (EVALUATE, "bigcodebench-hard")):
        command = make_command(PROGRAM, own, stage, files=FILES)
        assert command.argv[3:5] == ("problems", f"/own/{name}.jsonl")
        command = make_command(PROGRAM, row(HARD), stage)
        assert "problems" not in command.argv
        assert json.loads(command.files["options.json"])["data_set"] == f"bigcode/{name}"


def test_the_stages_get_the_settings_of_the_row() -> None:
    asked = row(
        HARD,
        gen_kwargs='{"n_samples": 5, "temperature": 0.8, "pass_k": "5,1", "max_new_tokens": 99}',
        limit="0.5",
        apply_chat_template="true",
        dtype="float16",
        model_args="max_model_len=2048,revision=main,enforce_eager=true",
    )
    command = make_command(PROGRAM, asked, GENERATE, gpus=2)
    assert command.argv[3:] == ("model", "org/model")
    options = json.loads(command.files["options.json"])
    assert options["values"] == {
        "split": "complete",
        "subset": "hard",
        "backend": "vllm",
        "greedy": False,
        "temperature": 0.8,
        "n_samples": 5,
        "max_new_tokens": 99,
        "max_model_len": 2048,
        "skip_prefill": False,
        "direct_completion": False,
        "trust_remote_code": False,
        "base_url": None,
        "tp": 2,
    }
    assert (options["limit"], options["dtype"], options["template"]) == (74, "float16", True)
    assert options["engine"] == {"enforce_eager": True}
    evaluation = make_command(PROGRAM, asked, EVALUATE, cpus=6)
    assert evaluation.argv[3:] == ("samples", "/in/samples.jsonl")
    assert json.loads(evaluation.files["options.json"])["values"] == {
        "split": "complete",
        "subset": "hard",
        "calibrated": True,
        "pass_k": "1,5",
        "parallel": 6,
    }
    assert (evaluation.address_space_gib, evaluation.stack_mib) == (None, 10)
    asked_of_server = make_command(PROGRAM, row(INSTRUCT, **SERVER), GENERATE)
    assert json.loads(asked_of_server.files["options.json"])["server"] == "http://127.0.0.1:8000/v1"
    assert not PROGRAM.stages(row(INSTRUCT, **SERVER))[0].uses_gpu


def _problems(directory: Path, names: list[str]) -> None:
    write_json(directory, {"problems.json": {"hash": "digest", "problems": names}})


def _generated(directory: Path, samples: int = 1, names: list[str] = PROBLEMS) -> Path:
    _problems(directory, names)
    programs = [
        {"task_id": name, "solution": f"{name} {index}"}
        for name in names
        for index in range(samples)
    ]
    write_lines(directory / "samples.jsonl", programs)
    return directory


def _outcomes(directory: Path, passed: dict[str, list[bool]], **scores: Any) -> Path:
    content = {
        name: [
            {
                "task_id": name,
                "solution": f"def f():\n    pass\n{name} {index}",
                "status": "pass" if good else "fail",
                "details": {},
            }
            for index, good in enumerate(each)
        ]
        for name, each in passed.items()
    }
    facts = {"split": "complete", "subset": "full", "gt_pass_rate": 1.0, "failed_tasks": []}
    result = {"date": "2026-01-02 03:04", "eval": content}
    _problems(directory, list(passed))
    return write_json(
        directory, {"eval_results.json": result, "pass_at_k.json": {**facts, **scores}}
    )


def test_scores_are_computed_from_the_outcomes_as_the_reader_computes_them(tmp_path: Path) -> None:
    asked = row(
        include_path="/own", gen_kwargs="n_samples=2,temperature=1,pass_k=1", log_samples="true"
    )
    passed = {PROBLEMS[0]: [True, False], PROBLEMS[1]: [True, True], PROBLEMS[2]: [False, False]}
    evaluated = _outcomes(tmp_path / "e", passed, **{"pass@1": 0.5})
    outputs = {GENERATE: _generated(tmp_path / "g", samples=2), EVALUATE: evaluated}
    for stage in PROGRAM.stages(asked):
        PROGRAM.check_output(asked, stage, outputs[stage.name])
    evaluation = PROGRAM.evaluation(asked, outputs)
    (score,) = evaluation.scores
    assert (score.metric, score.value, score.n_samples) == ("pass@1", pytest.approx(0.5), 3)
    path = evaluated / "pass_at_k.json"
    (read,) = results.read_scored_rows(json.loads(path.read_bytes()), str(path)) or []
    assert (read.scores, read.row["task_path"]) == (evaluation.scores, TASK)
    assert evaluation.tasks[TASK].hash == "digest"
    assert len(evaluation.samples[TASK]) == 6
    assert evaluation.native["passed"][PROBLEMS[0]] == {"passed": 1, "tried": 2}


def test_the_hard_subset_takes_its_part_of_the_programs(tmp_path: Path) -> None:
    outputs = {
        GENERATE: _generated(tmp_path / "g"),
        EVALUATE: _outcomes(tmp_path / "e", {PROBLEMS[1]: [True]}),
    }
    evaluation = PROGRAM.evaluation(row(HARD, include_path="/own"), outputs)
    assert [(score.value, score.n_samples) for score in evaluation.scores] == [(1.0, 1)]


def test_programs_count_only_if_all_are_there(tmp_path: Path) -> None:
    asked = row(include_path="/own", limit="3")
    generate = PROGRAM.stages(asked)[0]
    PROGRAM.check_output(asked, generate, _generated(tmp_path / "good"))
    with pytest.raises(InvalidOutputError, match="expected 1 samples, got 2"):
        PROGRAM.check_output(asked, generate, _generated(tmp_path / "more", samples=2))
    with pytest.raises(InvalidOutputError, match="it has 3 problems, not as many as asked for"):
        PROGRAM.check_output(row(), generate, tmp_path / "good")
    with pytest.raises(InvalidOutputError, match=r"it has no file problems\.json"):
        PROGRAM.check_output(asked, generate, tmp_path)


@pytest.mark.parametrize(
    ("rate", "failed"),
    [(0.98, ["BigCodeBench/2"]), (0.0, PROBLEMS), (None, []), ("1.0", [])],
)
def test_nothing_counts_if_reference_solutions_fail(
    tmp_path: Path, rate: Any, failed: list[str]
) -> None:
    passed = {name: [True] for name in PROBLEMS}
    output = _outcomes(tmp_path, passed, gt_pass_rate=rate, failed_tasks=failed)
    asked = row(include_path="/own")
    with pytest.raises(InvalidOutputError, match=rf"gt_pass_rate is {rate}: .*fail on this"):
        PROGRAM.check_output(asked, PROGRAM.stages(asked)[1], output)


def test_outcomes_of_other_programs_or_problems_are_no_result(tmp_path: Path) -> None:
    asked, generated = row(include_path="/own"), _generated(tmp_path / "g")
    good = {name: [True] for name in PROBLEMS}
    more = _outcomes(tmp_path / "1", {**good, PROBLEMS[0]: [True, True]})
    other = _outcomes(tmp_path / "2", {**good, "BigCodeBench/9": [True]})
    fewer = _outcomes(tmp_path / "3", good)
    _problems(fewer, [*PROBLEMS, "BigCodeBench/3"])
    bad = _outcomes(tmp_path / "4", good)
    content = json.loads((bad / "eval_results.json").read_bytes())
    content["eval"][PROBLEMS[2]][0]["status"] = "passed"
    write_json(bad, {"eval_results.json": content})
    for output, message in (
        (more, "BigCodeBench/0: other programs were evaluated"),
        (other, "BigCodeBench/9: other programs"),
        (fewer, "expected outcomes of 4 problems"),
        (bad, "BigCodeBench/2: status is 'passed'"),
    ):
        with pytest.raises(InvalidOutputError, match=message):
            PROGRAM.evaluation(asked, {GENERATE: generated, EVALUATE: output})
