"""bigcode: which rows are refused and why, what is started, and which outputs count."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError
from oellm.frameworks.bigcode_eval import outputs, results
from oellm.frameworks.bigcode_eval.definitions import find_obstacle, read_definitions
from oellm.frameworks.bigcode_eval.program import create_program
from oellm.frameworks.program import InvalidOutputError, NeededDataSet, NeededMetric
from oellm.frameworks.stages import EVALUATE, GENERATE
from oellm.manifest.rows import eval_id
from support.stage_outputs import make_command, make_row, write_json

PROGRAM = create_program()
GREEDY = "do_sample=false"


def row(task: str = "humaneval", **cells: str) -> Any:
    return make_row("bigcode_eval", task, **cells)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"n_shot": "5"}, "n_shot: bigcode_eval has no setting for it: humaneval always has 0"),
        ({"backend": "vllm"}, "backend: bigcode_eval has only hf, got 'vllm'"),
        ({"gen_kwargs": "temprature=1"}, "gen_kwargs: .* 'temprature', did you mean temperature?"),
        ({"gen_kwargs": "max_gen_toks=9"}, "no setting 'max_gen_toks'; known are n_samples, do_s"),
        ({"gen_kwargs": "n_samples=0"}, "n_samples: expected a positive integer, got '0'"),
        ({"gen_kwargs": "top_p=1.5"}, "top_p: expected a number above 0, at most 1, got '1.5'"),
        ({"gen_kwargs": "n_samples=5,do_sample=false"}, "n_samples above 1 are all alike"),
        ({"gen_kwargs": "temperature=0"}, "a temperature of 0 needs do_sample=false"),
        ({"dtype": "auto"}, "dtype: expected one of float32, float16, bfloat16, got 'auto'"),
        ({"dtype": "float16", "model_args": "dytpe=x"}, "model_args: .*'dytpe', did you mean dty"),
        ({"apply_chat_template": "true"}, "apply_chat_template: .*applies no chat template"),
        ({"include_path": "/x"}, "include_path: .*no files of your own"),
        ({"seed": "1,2,3,4"}, "seed: expected one seed, got '1,2,3,4'"),
        ({"seed": "1", "gen_kwargs": "seed=2"}, "seed: gen_kwargs has another seed, 2"),
        ({"task_path": "apps-interview"}, "task_path: .*pyext, which cannot be built"),
        ({"task_path": "multiple-js", "limit": "0.5"}, "limit: expected a number of problems"),
        ({"task_path": "starcoder_fim"}, "task_path: .*hub names only"),
    ],
)
def test_a_row_is_refused_for_what_the_program_would_ignore(
    cells: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=rf"^m\.csv:2: .*{message}"):
        PROGRAM.check(row(**{"task_path": "humaneval", **cells}))


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {"n_shot": "0", "seed": "7", "gen_kwargs": "seed=7", "apply_chat_template": "false"},
        {"limit": "0.5", "dtype": "bfloat16", "batch_size": "auto"},
        {"gen_kwargs": '{"n_samples": 20, "temperature": 0.8, "do_sample": true}'},
        {"task_path": "multiple-js", "limit": "5"},
        {"task_path": "humanevalsynthesize-python", "gen_kwargs": "prompt=octocoder"},
    ],
)
def test_a_row_that_the_program_can_do_is_accepted(cells: dict[str, str]) -> None:
    PROGRAM.check(row(**{"task_path": "humaneval", **cells}))


def test_every_task_has_a_definition_and_those_that_can_run_have_data() -> None:
    definitions = read_definitions()
    assert definitions.keys() == PROGRAM.catalogue().tasks.keys()
    runnable = [name for name in definitions if not find_obstacle(name)]
    assert 50 < len(runnable) < len(definitions)
    # Its evaluator says that every program passes.
    assert "all pass" in find_obstacle("multiple-go")
    for name in runnable:
        assert definitions[name].data_sets, name
        assert PROGRAM.needs(row(name)) == definitions[name].needs
    assert PROGRAM.needs(row()) == [NeededDataSet("openai_humaneval", split="test")]
    assert NeededMetric("bleu") in PROGRAM.needs(row("conala"))
    # A mistake of this version, which users would look for elsewhere.
    assert "did you mean" in PROGRAM.catalogue().find_unknown("multiple-cpp")


def test_the_generation_gets_all_settings_of_the_row() -> None:
    cells = {"gen_kwargs": "n_samples=3,temperature=0.8,prefix=<|x|>", "limit": "0.1", "tp": "2"}
    asked = row(**cells, batch_size="2", dtype="bfloat16", seed="7")
    command = make_command(PROGRAM, asked, GENERATE, gpus=2)
    text = " ".join(command.argv)
    assert command.argv[:2] == ("/venv/bin/python", "/private/files/launcher.py")
    assert "--tasks humaneval --n_samples 3 --limit 17 " in text
    for part in (
        *("--do_sample=True", "--temperature=0.8", "--top_p=0.95", "--seed=7", "--prefix=<|x|>"),
        *("--batch_size 2", "--precision bf16", "--max_memory_per_gpu auto"),
        *("--max_length_generation=512", "--save_generations_path /out/generations.json"),
    ):
        assert f" {part} " in f"{text} ", part
    assert "--trust_remote_code" not in text
    assert "CUDA_VISIBLE_DEVICES" not in command.env


def test_the_evaluation_loads_the_answers_and_needs_the_tools_of_a_language() -> None:
    command = make_command(PROGRAM, row("multiple-js", limit="5"), EVALUATE)
    text = " ".join(command.argv)
    assert "--limit 5 --model org/model --load_generations_path /in/generations_multiple-js" in text
    assert "--allow_code_execution --metric_output_path /out/metrics.json" in text
    options = json.loads(command.files["options.json"])
    assert options["programs"] == ["node"]
    assert "ghcr.io/nuprl/multipl-e-evaluation" in options["image"]
    assert options["data_sets"] == ["nuprl/MultiPL-E"]
    assert command.env["CUDA_VISIBLE_DEVICES"] == ""
    stages = {stage.name: stage for stage in PROGRAM.stages(row())}
    assert (stages[EVALUATE].runs_model_code, stages[GENERATE].runs_model_code) == (True, False)
    assert not any(stage.runs_model_code for stage in PROGRAM.stages(row("conala")))


def test_rows_that_ask_for_the_same_answers_share_them() -> None:
    one, other = row(n_shot="0", log_samples="true"), row()
    assert eval_id(PROGRAM.generation_row(one)) == eval_id(PROGRAM.generation_row(other))
    assert eval_id(PROGRAM.generation_row(one)) != eval_id(PROGRAM.generation_row(row(limit="3")))


def _answers(directory: Path, problems: int = 3, samples: int = 1, task: str = "humaneval") -> Path:
    content = [["def f(): pass"] * samples for _ in range(problems)]
    return write_json(directory, {f"generations_{task}.json": content})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it has no file generations_humaneval.json"),
        ([["a"], ["b"]], "expected 3 problems, got 2"),
        ([["a"], ["b"], ["c", "d"]], "problem 2: expected 1 samples, got 2"),
        ([["a"], ["b"], []], "problem 2: expected 1 samples, got 0"),
        ([["a"], ["b"], [None]], "expected lists of texts"),
        ({"a": 1}, "expected lists of texts"),
    ],
)
def test_answers_count_only_if_all_are_there(tmp_path: Path, content: Any, message: str) -> None:
    asked = row(limit="3")
    stage = PROGRAM.stages(asked)[0]
    output = write_json(
        tmp_path, {} if content is None else {"generations_humaneval.json": content}
    )
    with pytest.raises(InvalidOutputError, match=message):
        PROGRAM.check_output(asked, stage, output)
    PROGRAM.check_output(asked, stage, _answers(tmp_path / "good"))


def test_the_number_of_problems_may_come_from_the_manifest_or_be_unknown(tmp_path: Path) -> None:
    output = _answers(tmp_path, task="multiple-js")
    for cells in ({"n_docs": "3"}, {}, {"limit": "5"}):
        asked = row("multiple-js", **cells)
        PROGRAM.check_output(asked, PROGRAM.stages(asked)[0], output)
    for cells in ({"n_docs": "4"}, {"limit": "2"}):
        asked = row("multiple-js", **cells)
        with pytest.raises(InvalidOutputError, match="problems, got 3"):
            PROGRAM.check_output(asked, PROGRAM.stages(asked)[0], output)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, "it has no scores of humaneval"),
        ({"pass@1": None}, "pass@1 of humaneval is None"),
        ({"pass@1": 1.5}, "pass@1 of humaneval is 1.5, not from 0 to 1"),
        ({"pass@1": "1.0"}, "pass@1 of humaneval is '1.0'"),
        (None, "expected scores of humaneval and of no other task"),
    ],
)
def test_scores_count_only_if_they_are_numbers_of_this_task(
    tmp_path: Path, metrics: Any, message: str
) -> None:
    stage = PROGRAM.stages(row())[1]
    write_json(tmp_path, {"metrics.json": {"humaneval": metrics, "config": {}}})
    with pytest.raises(InvalidOutputError, match=message):
        PROGRAM.check_output(row(), stage, tmp_path)
    (tmp_path / "metrics.json").write_text('{"humaneval": {"pass@1": NaN}, "config": {}}')
    with pytest.raises(InvalidOutputError, match=r"metrics\.json"):
        PROGRAM.check_output(row(), stage, tmp_path)


def test_a_single_problem_has_a_score_without_a_standard_error(tmp_path: Path) -> None:
    text = '{"humaneval": {"pass@1": 1.0,\n "pass@1_stderr": NaN}, "config": {}}'
    (tmp_path / "metrics.json").write_text(text)
    native = outputs.read_metrics(tmp_path, "humaneval")
    (score,) = results.read_scores("humaneval", native["humaneval"])
    assert (score.metric, score.value, score.stderr) == ("pass@1", 1.0, None)


def test_scores_are_those_of_the_reader_but_settings_are_those_of_the_row(tmp_path: Path) -> None:
    asked = row(limit="3", gen_kwargs=GREEDY, log_samples="true", dtype="float16")
    config = {"metric_output_path": "/out/metrics.json", "tasks": "humaneval", "temperature": 0.2}
    native = {"humaneval": {"pass@1": 2 / 3, "pass@1_stderr": 1 / 3}, "config": config}
    written = write_json(tmp_path / "e", {"metrics.json": native})
    outputs = {GENERATE: _answers(tmp_path / "g"), EVALUATE: written}
    evaluation = PROGRAM.evaluation(asked, outputs)
    (read,) = results.read_scored_rows(native, str(written / "metrics.json")) or []
    assert [score._replace(n_samples=None) for score in evaluation.scores] == read.scores
    assert evaluation.scores[0].n_samples == evaluation.usage.documents == 3
    assert math.isclose(evaluation.scores[0].value, 2 / 3)
    assert evaluation.environment.dtype == "float16"
    assert len(evaluation.samples["humaneval"]) == 3
    assert not PROGRAM.evaluation(asked.without("log_samples"), outputs).samples
