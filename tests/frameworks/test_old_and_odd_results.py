"""Results of versions and tools whose files say less, or say it otherwise, than lm-eval's today."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from oellm.frameworks.reading.detect import read_result
from oellm.metrics.scored_rows import ScoredRow

# As lm-eval 0.3 writes it: metrics have no filter.
OLD: dict[str, Any] = {
    "results": {
        "piqa": {"acc": 0.75, "acc_stderr": 0.01, "acc_norm": 0.5, "acc_norm_stderr": 0.02},
        "lambada": {"ppl": 9.5, "ppl_stderr": 0.25, "acc": 0.5, "acc_stderr": 0.03},
    },
    "versions": {"piqa": 0, "lambada": 1},
    "config": {
        "model": "hf-causal",
        "model_args": "pretrained=org/m,revision=step5",
        "num_fewshot": 3,
        "limit": None,
    },
}
SCORE = {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.125}


def read(document: Any, name: str = "results.json", model: str = "") -> list[ScoredRow]:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = read_result(content, f"/nowhere/dir/{name}", model)
    assert found is not None
    return found


def result(**config: Any) -> dict[str, Any]:
    """Return a result of lm-eval today with some keys of `config`."""
    return {"results": {"arc": SCORE}, "configs": {"arc": {}}, "config": config}


def test_lm_eval_0_3_has_metrics_without_a_filter() -> None:
    rows = read(OLD)
    shown = [
        (score.task, score.n_shot, score.metric, score.filter, score.value, score.stderr)
        for row in rows
        for score in row.scores
    ]
    assert shown == [
        ("piqa", 3, "acc", "none", 0.75, 0.01),
        ("piqa", 3, "acc_norm", "none", 0.5, 0.02),
        ("lambada", 3, "ppl", "none", 9.5, 0.25),
        ("lambada", 3, "acc", "none", 0.5, 0.03),
    ]
    assert {row.row["model_path"] for row in rows} == {"org/m,revision=step5"}
    assert {row.row["backend"] for row in rows} == {"hf-causal"}
    assert [row.remarks + row.notes for row in rows] == [(), ()]


@pytest.mark.parametrize(
    ("given", "shots"),
    [
        (0, [0, 0]),
        ([2, 4], [2, 4]),
        ([2], [2, 2]),
        ("2, 4", [2, 4]),
        ("5", [5, 5]),
        (None, [None, None]),
        ("many", [None, None]),
        ([2, "x"], [2, None]),
    ],
)
def test_shots_of_lm_eval_0_3_are_of_all_tasks_or_of_each(given: Any, shots: list[Any]) -> None:
    rows = read({**OLD, "config": OLD["config"] | {"num_fewshot": given}})
    assert [row.scores[0].n_shot for row in rows] == shots


def test_results_alone_with_versions_are_of_lm_eval_too() -> None:
    kept = {name: OLD[name] for name in ("results", "versions")}
    rows = read(kept)
    assert [row.row["model_path"] for row in rows] == ["dir (guessed)"] * 2
    assert [row.scores[0].value for row in rows] == [0.75, 9.5]
    for other in ({}, {"a": 1}, [1]):
        assert read_result(json.dumps({**kept, "results": other}).encode(), "/x/a.json") is None
    assert read_result(json.dumps({**kept, "more": 1}).encode(), "/x/a.json") is None


def test_shots_that_fit_no_task_are_unknown_and_said() -> None:
    rows = read({**OLD, "config": OLD["config"] | {"num_fewshot": [1, 2, 3]}})
    assert [row.scores[0].n_shot for row in rows] == [None, None]
    assert rows[0].notes == ("the shots are unknown: num_fewshot has 3 for 2 tasks",)


@pytest.mark.parametrize(
    ("config", "model_path", "model_args", "backend"),
    [
        (
            {"model": "vllm", "model_args": {"pretrained": "a/b", "stop": ["x, y"], "n": 1}},
            "a/b,n=1",
            {"stop": ["x, y"]},
            "vllm",
        ),
        (
            {"model": "hf", "model_args": 'pretrained=a/b,x={"i":[1,2],"j":"k=\\"l\\",m"},dtype=f'},
            "a/b,dtype=f",
            {"x": {"i": [1, 2], "j": 'k="l",m'}},
            "",
        ),
        (
            {"model": "hf", "model_args": {"pretrained": "a/b", "x": "1,2", "y=z": 1}},
            "a/b",
            {"x": "1,2", "y=z": 1},
            "",
        ),
        ({"model": "hf", "model_args": "pretrained=a/b,x=[1,dtype=f"}, "a/b,x=[1,dtype=f", {}, ""),
        ({"model": "hf-auto", "model_args": {"pretrained": "a/b", "API_KEY": "s"}}, "a/b", {}, ""),
        (
            {"model": "hf", "model_args": {"pretrained": "/m/lr=1,bs=8/iter_1", "dtype": "f"}},
            '"/m/lr=1,bs=8/iter_1",dtype=f',
            {},
            "",
        ),
        ({"model": "hf", "model_args": "pretrained=/m/a,b,dtype=f"}, '"/m/a,b",dtype=f', {}, ""),
        ({"model": "hf", "model_args": {"pretrained": "/m/a\nb"}}, '"/m/a\\nb"', {}, ""),
        ({"model": "org/name", "model_args": None}, "org/name", {}, ""),
        ({"model": "org/name", "model_args": ""}, "org/name", {}, ""),
        ({"model": {"a": 1}, "model_args": "pretrained=a/b"}, "a/b", {}, ""),
    ],
)
def test_arguments_of_a_model_stay_what_they_are(
    config: dict[str, Any], model_path: str, model_args: dict[str, Any], backend: str
) -> None:
    (row,) = read(result(**config))
    assert row.row["model_path"] == model_path
    assert (row.row.value("model_args") or {}) == {
        name: value if isinstance(value, (list, dict, str)) else json.dumps(value)
        for name, value in model_args.items()
    }
    assert row.row["backend"] == backend


@pytest.mark.parametrize(
    "config",
    [
        {"model": "<acme.wrapper.Model object at 0x7f>", "model_args": None},
        {"model": "HFLM", "model_args": ""},
        {"model": "hf", "model_args": {}},
        {"model": "hf", "model_args": {"dtype": "float16"}},
        {},
    ],
)
def test_a_result_without_a_model_gets_one_that_is_marked(config: dict[str, Any]) -> None:
    (guessed,) = read(result(**config))
    assert guessed.row["model_path"] == "dir (guessed)"
    (note,) = guessed.notes
    assert "--model" in note
    (named,) = read(result(**config), model="org/name")
    assert named.row["model_path"] == "org/name"
    assert named.notes == ()
    assert (named.row["model_args"] != "") == ("dtype" in str(config))


def test_a_result_that_names_its_model_takes_no_other() -> None:
    (row,) = read(result(model_args="pretrained=org/m"), model="org/name")
    assert row.row["model_path"] == "org/m"


@pytest.mark.parametrize(
    ("path", "model", "commit"),
    [
        ("/c/hub/models--org--name/snapshots/0a1b", "org/name", "0a1b"),
        ("/c/hub/models--org--name/snapshots/0a1b/", "org/name", "0a1b"),
        ("models--gpt2", "gpt2", ""),
        ("/c/models--org--name/blobs", "/c/models--org--name/blobs", ""),
        ("/c/models--a--b--c/snapshots/0a1b", "/c/models--a--b--c/snapshots/0a1b", ""),
    ],
)
def test_a_directory_of_a_hub_cache_is_the_model_at_a_commit(
    path: str, model: str, commit: str
) -> None:
    (row,) = read(result(model_args={"pretrained": path}))
    assert (row.row["model_path"], row.row["model_revision"]) == (model, commit)
    flat = path.strip("/").replace("/", "--")
    (of_name,) = read(EVALPLUS, f"{flat}_hf_temp_0.0_eval_results.json")
    if commit and model == "org/name":
        assert (of_name.row["model_path"], of_name.row["model_revision"]) == (model, commit)


def test_what_was_predicted_and_not_scored_is_a_note() -> None:
    values = {"alias": "arc", "bypass,none": 999, "bypass_stderr,none": "N/A"}
    (row,) = read({**result(model_args="pretrained=a/b"), "results": {"arc": values}})
    assert (row.scores, row.remarks) == ([], ())
    assert row.notes == ("arc was predicted, not scored",)


def test_what_has_no_number_is_a_remark_on_the_other_scores() -> None:
    values = {"acc,none": 0.5, "perplexity,none": math.inf, "f1,none": None}
    (row,) = read({**result(model_args="pretrained=a/b"), "results": {"arc": values}})
    assert row.tasks["arc"].remark == "perplexity is Infinity; f1 is null"
    assert row.remarks == ("perplexity of arc is Infinity", "f1 of arc is null")


def test_chosen_documents_are_no_whole_task() -> None:
    document = result(model_args="pretrained=a/b", limit=None)
    document["n-samples"] = {"arc": {"original": 10, "effective": 3}}
    (row,) = read(document)
    assert row.notes == ("arc: 3 chosen documents of 10 were evaluated",)
    assert row.row["documents"] == "chosen"
    assert row.tasks["arc"].remark == "3 chosen documents of 10 were evaluated"
    document["config"]["limit"] = 3.0
    (limited,) = read(document)
    assert (limited.notes, limited.row["limit"]) == ((), "3")


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "results_x.json", "the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "results_x.json",
            "it is a",
        ),
        (b'{"a": 1}\n{"a": ', "results_x.json", None),
        (b'{"doc_id": 0, "acc": 1.0}\n{"doc_id": 1, "acc": 0.0}\n', "samples_arc_x.json", None),
        (b"", "tokenizer.json", None),
        (b"", "results/0123456789abcdef.json", "the file is empty"),
        (b"", "evals/tokenizer.json", None),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "tokenizer.json", None),
        (b"[1, 2]\n[3]\n", "data.json", None),
        (b'{"a": 1', "data.json", "it is not JSON: "),
        (b"NaN", "data.json", None),
    ],
)
def test_files_that_are_no_results_are_not_damaged_ones(
    content: bytes, name: str, reason: str | None
) -> None:
    path = f"/nowhere/dir/{name}"
    if reason is None:
        assert read_result(content, path) is None
        return
    with pytest.raises(ValueError) as raised:
        read_result(content, path)
    assert str(raised.value).startswith(reason)


def test_results_on_the_lines_of_a_file_are_all_read() -> None:
    lines = [json.dumps(result(model_args=f"pretrained=a/{n}")).encode() for n in range(3)]
    rows = read(b"\n".join(lines))
    assert [row.row["model_path"] for row in rows] == ["a/0", "a/1", "a/2"]
    with pytest.raises(ValueError, match=r"^line 2: it is not JSON"):
        read(lines[0] + b"\n" + lines[1][:-5])


EVALPLUS = {
    "hash": "0",
    "date": "2025-01-01 10:00",
    "eval": {
        "HumanEval/0": [{"base_status": "pass", "plus_status": "fail"}],
        "HumanEval/1": [{"base_status": "fail", "plus_status": "fail"}],
    },
}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("a--b_vllm_temp_0.0", ("a/b", "vllm", "temperature=0.0")),
        ("a--b_vllm_temp_0.8-sanitized", ("a/b", "vllm", "temperature=0.8,sanitized=true")),
        (
            "a--b_hf_temp_1-sanitized-calibrated",
            ("a/b", "", "temperature=1,sanitized=true,calibrated=true"),
        ),
        (
            "a--b_hf_temp_0.0-sanitized_calibrated",
            ("a/b", "", "temperature=0.0,sanitized=true,calibrated=true"),
        ),
        ("a--b_hf_temp_0.0_calibrated", ("a/b", "", "temperature=0.0,calibrated=true")),
        ("a--b_openai_temp_0.2.raw", ("a/b", "openai", "temperature=0.2,raw=true")),
        ("my_vllm_temp_model_hf_temp_0.0", ("my_vllm_temp_model", "", "temperature=0.0")),
        ("samples-sanitized", ("samples", "", "sanitized=true")),
        ("samples", ("samples", "", "")),
    ],
)
def test_evalplus_names_its_files_after_what_came_before(
    name: str, cells: tuple[str, str, str]
) -> None:
    for ending in ("_eval_results.json", ".eval_results.json"):
        (row,) = read(EVALPLUS, name + ending)
        assert (row.row["model_path"], row.row["backend"], row.row["gen_kwargs"]) == cells


def test_evalplus_takes_the_name_of_a_directory_of_samples() -> None:
    (row,) = (
        read_result(
            json.dumps(EVALPLUS).encode(), "/x/a--b_hf_temp_0.0-sanitized/eval_results.json"
        )
        or []
    )
    assert row.row["model_path"] == "a/b"
    (guessed,) = read(EVALPLUS, "eval_results.json")
    assert guessed.row["model_path"] == "dir (guessed)"


def test_evalplus_scores_in_the_file_count() -> None:
    given = {"base": {"pass@1": 0.5, "pass@2": 0.75}, "plus": {"pass@1": 0.25}}
    (row,) = read({**EVALPLUS, "pass_at_k": given}, "m_hf_temp_0.0_eval_results.json")
    shown = {(s.filter, s.metric): (s.value, s.stderr) for s in row.scores}
    # The file's 0.25 is not what its outcomes say, so their standard error is not its own.
    assert shown == {
        ("base", "pass@1"): (0.5, 0.5),
        ("base", "pass@2"): (0.75, None),
        ("plus", "pass@1"): (0.25, None),
    }


EVALCHEMY: dict[str, Any] = {
    "results": {
        "AIME24": {
            "num_total": 30,
            "solved_avg": 1.5,
            "run_stats": [{"repetition": 1, "accuracy": 0.0}],
            "accuracy_avg": 0.05,
            "accuracy_std_err": 0.005,
            "num_repeat": 2,
        },
        "LiveCodeBench": {
            "num_total": 511,
            "accuracy_avg": 0.25,
            "accuracy_std_err": 0.5,
            "accuracy_easy_avg": 0.125,
            "accuracy_easy_std_err": 0.0625,
            "examples": [{"accuracy": 1.0}],
        },
        "HumanEval": {"python_pass@1": 0.5, "sh_pass@1": 0.25},
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.75, "acc_stderr,none": 0.125},
    },
    "config": {
        "model": "vllm",
        "model_args": "pretrained=a/b,dtype=bfloat16",
        "annotator_model": "auto",
        "gen_kwargs": "temperature=0.6",
    },
    "date": 1760000000.0,
}


def test_evalchemy_has_means_over_repetitions() -> None:
    rows = read(EVALCHEMY)
    shown = [
        (s.task, s.n_shot, s.metric, s.filter, s.value, s.stderr, s.n_samples)
        for row in rows
        for s in row.scores
    ]
    assert shown == [
        ("AIME24", 0, "accuracy_avg", "none", 0.05, 0.005, 30),
        ("AIME24", 0, "solved_avg", "none", 1.5, None, 30),
        ("LiveCodeBench", 0, "accuracy_avg", "none", 0.25, 0.5, 511),
        ("LiveCodeBench", 0, "accuracy_easy_avg", "none", 0.125, 0.0625, 511),
        ("HumanEval", 0, "python_pass@1", "none", 0.5, None, None),
        ("HumanEval", 0, "sh_pass@1", "none", 0.25, None, None),
        ("arc_easy", None, "acc", "none", 0.75, 0.125, None),
    ]
    assert {(row.row["model_path"], row.row["backend"], row.row["eval_suite"]) for row in rows} == {
        ("a/b,dtype=bfloat16", "vllm", "evalchemy")
    }
    assert rows[0].row.value("gen_kwargs") == {"temperature": "0.6", "n_samples": "2"}
    assert rows[1].row.value("gen_kwargs") == {"temperature": "0.6"}


def test_evalchemy_that_scored_nothing_is_named() -> None:
    values = {"num_total": 0, "accuracy_avg": 0.0, "accuracy_std_err": 0.0}
    other = {"accuracy": None, "num_total": 5, "language": "en"}
    document = {**EVALCHEMY, "results": {**EVALCHEMY["results"], "AMC23": values, "BBEH": other}}
    remarks = [row.remarks for row in read(document) if row.remarks]
    assert remarks == [("accuracy_avg of AMC23 is over no problem",), ("accuracy of BBEH is null",)]


def test_lm_eval_is_not_taken_for_evalchemy() -> None:
    (row,) = read(result(model_args="pretrained=a/b"))
    assert row.row["eval_suite"] == "lm_eval"
    assert {row.row["eval_suite"] for row in read(OLD)} == {"lm_eval"}


def test_results_say_what_they_were_computed_from_and_with() -> None:
    document = result(
        model="hf", model_args="pretrained=a/b", model_sha="c" * 40, model_dtype="torch.bfloat16"
    )
    document |= {
        "versions": {"arc": 2.0},
        "task_hashes": {"arc": "d" * 64},
        "lm_eval_version": "0.4.9",
        "chat_template": "{{x}}",
        "chat_template_sha": "e" * 64,
        "pretty_env_info": "PyTorch version: 2\nGPU 0: NVIDIA A100\nGPU 1: NVIDIA A100\n",
    }
    (row,) = read(document)
    assert (row.contents.model, row.contents.chat_template) == ("c" * 40, "e" * 16)
    assert row.environment == ("0.4.9", "hf", "bfloat16", "NVIDIA A100")
    assert row.tasks == {"arc": ("2.0", "d" * 64, "")}
    assert {row.tasks["piqa"].version for row in read(OLD)[:1]} == {"0"}


@pytest.mark.parametrize("key", ["versions", "task_hashes"])
def test_states_of_tasks_that_are_no_objects_are_damage(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: expected an object"):
        read({**result(model_args="pretrained=a/b"), key: [1]})


@pytest.mark.parametrize("place", ["results", "config", "acc,none"])
def test_a_key_that_an_object_has_twice_is_damage(place: str) -> None:
    text = json.dumps(result(model_args="pretrained=a/b"))
    key = f'"{place}": '
    start = text.index(key)
    repeated = text[:start] + f"{key}1, " + text[start:]
    with pytest.raises(ValueError, match=f"^an object has the key '{place}' twice"):
        read(repeated.encode())


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
@pytest.mark.parametrize("what", ["task", "metric", "filter", "version", "model"])
def test_names_that_no_text_can_hold_are_damage(name: str, what: str) -> None:
    document = result(model_args={"pretrained": name if what == "model" else "a/b"})
    task, metric, filter_name = (
        name if what == part else usual
        for part, usual in (("task", "arc"), ("metric", "acc"), ("filter", "none"))
    )
    document["results"] = {task: {f"{metric},{filter_name}": 0.5}}
    document["lm_eval_version"] = name if what == "version" else "0.4.13"
    if (what, name) == ("model", "a\0b"):
        # The cell of a model is quoted as JSON if it must be.
        (row,) = read(document)
        assert row.row["model_path"] == '"a\\u0000b"'
        return
    with pytest.raises(ValueError, match="expected UTF-8 text without NUL, got"):
        read(document)


@pytest.mark.parametrize("depth", [100, 500, 3000, 100_000])
@pytest.mark.parametrize("place", ["model_args", "gen_kwargs", "other"])
@pytest.mark.parametrize("as_text", [False, True])
def test_deep_nesting_is_no_internal_error(depth: int, place: str, as_text: bool) -> None:
    deep = "[" * depth + "]" * depth
    text = json.dumps(result(model_args={"pretrained": "a/b"}, gen_kwargs={}))
    members = json.dumps(f"pretrained=a/b,x={deep}") if as_text else f'{{"x": {deep}}}'
    old = f'"{place}": ' + {"model_args": '{"pretrained": "a/b"}', "gen_kwargs": "{}"}.get(
        place, ""
    )
    if place == "other":
        text = text[:-1] + f', "other": {members}}}'
    else:
        text = text.replace(old, f'"{place}": {members}')
    try:
        rows = read(text.encode())
    except ValueError as error:
        assert "nested too deeply" in str(error)
    else:
        assert [score.value for row in rows for score in row.scores] == [0.5]
