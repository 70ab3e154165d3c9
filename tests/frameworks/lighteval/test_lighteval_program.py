"""lighteval: which rows are refused and why, what is started, and which outputs count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm.errors import InputError
from oellm.frameworks import lighteval
from oellm.frameworks.lighteval.program import create_program
from oellm.frameworks.program import (
    InvalidOutputError,
    NeededDataSet,
    NeededNltk,
    UnfinishedOutputError,
)
from oellm.frameworks.program_tasks import ProgramTasks
from oellm.frameworks.stages import EVALUATE
from oellm.manifest.rows import Row, identify_row
from support.stage_outputs import make_command, make_row, write_json

PROGRAM = create_program()
# The languages of the European suites whose tasks lighteval has.
BELEBELE = (
    "bul_Cyrl hrv_Latn ces_Latn dan_Latn nld_Latn eng_Latn est_Latn fin_Latn fra_Latn deu_Latn "
    "ell_Grek hun_Latn ita_Latn lvs_Latn lit_Latn mlt_Latn pol_Latn por_Latn ron_Latn slk_Latn "
    "slv_Latn spa_Latn swe_Latn nob_Latn eus_Latn cat_Latn"
)
FLORES = (
    "bul_Cyrl hrv_Latn ces_Latn dan_Latn nld_Latn est_Latn fin_Latn fra_Latn deu_Latn ell_Grek "
    "hun_Latn gle_Latn ita_Latn lvs_Latn lit_Latn mlt_Latn pol_Latn por_Latn ron_Latn slk_Latn "
    "slv_Latn spa_Latn swe_Latn cat_Latn eus_Latn glg_Latn bos_Latn kat_Geor mkd_Cyrl als_Latn "
    "srp_Cyrl tur_Latn ukr_Cyrl isl_Latn nob_Latn"
)
TASK = "belebele_bul_Cyrl_cf"
ENVIRONMENT = {"PYTHONPATH": str(Path(lighteval.__file__).parents[3])}
STAGE = PROGRAM.stages(make_row("lighteval", TASK))[0]


def row(task: str = TASK, **cells: str) -> Row:
    return identify_row(make_row("lighteval", task, **cells))


@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        (TASK, {"backend": "vllm"}, "backend: lighteval is run with hf only, got 'vllm'"),
        (TASK, {"seed": "1"}, "seed: lighteval has no seed that a row could set"),
        (TASK, {"gen_kwargs": "max_new_tokens=5"}, "lighteval ignores max_new_tokens: each task"),
        (TASK, {"gen_kwargs": "do_sample=true"}, "lighteval ignores do_sample"),
        (TASK, {"gen_kwargs": "top_p=0.9"}, "top_p changes nothing without a temperature above 0"),
        (TASK, {"gen_kwargs": "temprature=1"}, "did you mean temperature"),
        (TASK, {"include_path": "/rows"}, "include_path: lighteval reads data sets of the hub"),
        (TASK, {"apply_chat_template": "llama"}, "apply_chat_template: expected true or false"),
        (TASK, {"fewshot_as_multiturn": "true"}, "always gives a chat's examples as turns of it"),
        (TASK, {"dtype": "fp8"}, "dtype: expected one of float32, float16, bfloat16, auto"),
        (TASK, {"model_args": "max_length=long"}, "max_length: expected a positive integer"),
        ("mmlu", {"limit": "0.5"}, "limit: expected a number of documents for a group, got 0.5"),
        ("lcb:codegeneration", {}, "it runs programs that the model writes, outside of any"),
        ("slr_bench_easy", {}, "it runs programs that the model writes"),
        ("mt_bench", {}, "another model judges the answers, over the network"),
        ("tiny", {}, "needs tinyBenchmarks.pkl"),
        ("summarization:xsum", {}, "its metrics load models that oe-fetch does not know"),
        ("aime24_gpassk", {}, "draws 48 answers and needs a temperature above 0"),
    ],
)
def test_a_row_is_refused_for_what_lighteval_cannot_do(
    task: str, cells: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=rf"^m\.csv:2: .*{message}"):
        PROGRAM.check(row(task, **cells))


@pytest.mark.parametrize(
    ("task", "cells"),
    [
        (TASK, {"limit": "0.5", "n_shot": "5", "batch_size": "auto", "dtype": "auto"}),
        (TASK, {"apply_chat_template": "true", "system_instruction": "Answer.", "tp": "4"}),
        ("mmlu", {"limit": "10", "n_shot": "5"}),
        ("aime24_gpassk", {"gen_kwargs": "temperature=0.6,top_p=0.95,top_k=20"}),
    ],
)
def test_a_row_that_lighteval_can_do_is_accepted(task: str, cells: dict[str, str]) -> None:
    PROGRAM.check(row(task, **cells))


def test_a_task_is_known_by_its_name_and_a_group_by_that_of_its_parts() -> None:
    catalogue = PROGRAM.catalogue()
    assert (len(catalogue.tasks), len(set(catalogue.tasks))) == (52617, 52617)
    assert catalogue.groups["bold"][:2] == ("bold", "bold:gender")
    assert len(catalogue.groups["flores200"]) == 197 * 196
    for name in ("mmlu:", "mmlu:abstract", "flores200:bul_Cyrl-bul_Cyrl", "belebele_bul_Cyrl"):
        assert name not in catalogue.tasks
        assert name not in catalogue.groups
    unknown = ProgramTasks("lighteval", PROGRAM).find_unknown("belebele_bul_Cyr_cf", "")
    assert unknown.endswith(f"in version 0.13.0, did you mean {TASK}?")


def test_the_tasks_of_the_european_suites_are_known_by_name() -> None:
    tasks = [f"belebele_{code}_cf" for code in BELEBELE.split()]
    tasks += [f"flores200:{code}-eng_Latn" for code in FLORES.split()]
    tasks += [f"flores200:eng_Latn-{code}" for code in FLORES.split()]
    assert len(tasks) == 96
    for task in tasks:
        assert task in PROGRAM.catalogue().tasks
        PROGRAM.check(row(task, n_shot="0"))


def test_needs_are_the_data_sets_and_what_the_metrics_read() -> None:
    flores = "flores200:eng_Latn-bul_Cyrl"
    data = NeededDataSet("facebook/flores", "eng_Latn-bul_Cyrl", split="devtest")
    assert PROGRAM.needs(row(flores)) == [data, NeededNltk("punkt_tab")]
    assert PROGRAM.needs(row()) == [NeededDataSet("facebook/belebele", "bul_Cyrl", split="test")]
    parts = PROGRAM.needs(row("mmlu"))
    assert (len(parts), parts[0]) == (
        57,
        NeededDataSet("lighteval/mmlu", "abstract_algebra", split="test"),
    )
    (pinned,) = PROGRAM.needs(row("community_arc_swa_cf:challenge"))
    assert isinstance(pinned, NeededDataSet)
    assert pinned.revision


def test_the_catalogue_is_found_in_milliseconds() -> None:
    code = (
        "import time; begun = time.process_time()\n"
        "from oellm.frameworks.lighteval.families import find_definitions\n"
        f"assert find_definitions('{TASK}')\n"
        "print(time.process_time() - begun)"
    )
    command = [sys.executable, "-c", code]
    # It takes about 80 ms, of which 15 are the catalogue's.
    times = [float(subprocess.check_output(command, env=ENVIRONMENT)) for _ in range(5)]
    assert min(times) < 0.2


def test_rows_of_one_setup_share_a_start_but_no_more_than_sixteen() -> None:
    rows = [row(n_shot=str(shots), limit=str(shots + 1)) for shots in range(18)]
    rows += [row(system_instruction="Be brief."), row(gen_kwargs="temperature=0.5")]
    batches = PROGRAM.batches(rows, STAGE)
    assert [len(batch) for batch in batches] == [16, 2, 1, 1]
    assert [each for batch in batches for each in batch] == rows


def test_the_launcher_gets_the_settings_of_the_rows() -> None:
    asked = row(
        n_shot="2",
        limit="0.5",
        log_samples="true",
        batch_size="auto",
        trust_remote_code="true",
        apply_chat_template="false",
        system_instruction="Be brief.",
        model_args="max_length=512,revision=main",
        gen_kwargs="temperature=0.5,top_k=5,repetition_penalty=1.1",
    )
    command = make_command(PROGRAM, asked, EVALUATE, gpus=2)
    assert command.argv[1:] == (
        "/private/files/launcher.py",
        "/private/files/options.json",
        "org/model",
    )
    options = json.loads(command.files["options.json"])
    assert options["values"] == {
        "dtype": "float32",
        "max_length": 512,
        "batch_size": None,
        "trust_remote_code": True,
        "generation_parameters": {"temperature": 0.5, "top_k": 5, "repetition_penalty": 1.1},
        "override_chat_template": False,
        "system_prompt": "Be brief.",
    }
    assert options["sampling"]
    assert options["rows"] == [
        {"id": asked["eval_id"], "task": f"{TASK}|2", "limit": 0.5, "samples": True, "nltk": []}
    ]
    # On a CPU, lighteval's search for a batch size would use up the memory.
    command = make_command(PROGRAM, asked, EVALUATE, gpus=0)
    assert json.loads(command.files["options.json"])["values"]["batch_size"] == 8
    assert command.env["CUDA_VISIBLE_DEVICES"] == ""


def _write(output: Path, asked: Row, results: dict[str, Any], **files: Any) -> Path:
    document = {
        "config_general": {"model_config": {"dtype": "float32"}},
        "results": results,
        "versions": {},
        "summary_tasks": {f"{TASK}|0": {"hashes": {"hash_full_prompts": "abc"}}},
    }
    found = {"results.json": document, "documents.json": {TASK: 3}, **files}
    write_json(output / asked["eval_id"], found)
    return output


def test_scores_are_those_that_the_reader_reads_with_the_number_of_documents(
    tmp_path: Path,
) -> None:
    asked = row(log_samples="true")
    scores = {"acc_norm": 0.5, "acc_norm_stderr": 0.1}
    results = {f"{TASK}|0": scores, "all": scores}
    output = _write(tmp_path, asked, results, **{"samples.json": {TASK: [{"doc": {}}]}})
    (output / "version.txt").write_text("0.13.1")
    PROGRAM.check_output(asked, STAGE, output)
    evaluation = PROGRAM.evaluation(asked, {EVALUATE: output})
    (score,) = evaluation.scores
    assert (score.task, score.metric, score.value, score.stderr) == (TASK, "acc_norm", 0.5, 0.1)
    assert (score.n_shot, score.n_samples) == (0, 3)
    assert evaluation.tasks == {TASK: ("0.13.1", "abc", "")}
    assert evaluation.samples == {TASK: [{"doc": {}}]}
    assert evaluation.environment.framework_version == "0.13.1"


def test_a_failed_row_fails_alone_and_one_that_was_not_reached_is_left(tmp_path: Path) -> None:
    good, failed, left = row(), row(n_shot="1"), row(n_shot="2")
    _write(tmp_path, good, {f"{TASK}|0": {"acc": 1.0}})
    directory = tmp_path / failed["eval_id"]
    directory.mkdir()
    (directory / "error.txt").write_text("IndexError: list index out of range")
    (tmp_path / left["eval_id"]).mkdir()
    PROGRAM.check_output(good, STAGE, tmp_path)
    with pytest.raises(InvalidOutputError, match=r"^IndexError: list index out of range$"):
        PROGRAM.check_output(failed, STAGE, tmp_path)
    with pytest.raises(UnfinishedOutputError):
        PROGRAM.check_output(left, STAGE, tmp_path)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({f"{TASK}|5": {"acc": 1.0}}, "expected the scores of"),
        ({"arc|0": {"acc": 1.0}}, "expected the scores of"),
        ({f"{TASK}|0": {"acc": 1.0}, "arc|0": {"acc": 1.0}}, "expected the scores of"),
        ({f"{TASK}|0": {"acc": None}}, "acc"),
        ({f"{TASK}|0": {}}, "expected the scores of"),
        ({}, "expected the scores of"),
    ],
)
def test_results_of_another_task_or_without_a_number_are_none(
    tmp_path: Path, results: dict[str, Any], message: str
) -> None:
    asked = row()
    with pytest.raises(InvalidOutputError, match=message):
        PROGRAM.check_output(asked, STAGE, _write(tmp_path, asked, results))
