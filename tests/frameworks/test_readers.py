"""Results of other tools: real ones, damaged ones, and similar names."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.frameworks.reading.detect import read_result
from oellm.metrics.records import PrimaryMetrics, make_metric_records
from oellm.metrics.scored_rows import ScoredRow
from support.golden_files import GOLDEN, assert_golden
from support.native_results import GENERATORS, generate

NATIVE = GOLDEN / "native"
KINDS = sorted(path.name for path in NATIVE.iterdir() if path.is_dir())
FILES = sorted(NATIVE.glob("*/*.json"))
MODIFIED = 1_700_000_000

LM_EVAL = next(NATIVE.glob("lm_eval-0.4.13-group-and-task/*.json"))
BIGCODEBENCH = next(NATIVE.glob("bigcodebench-*/*_pass_at_k.json"))
EVALPLUS = next(NATIVE.glob("evalplus-*/*_eval_results.json"))
BIGCODE = next(NATIVE.glob("nvidia-bigcode-eval-*/*.json"))

# As lighteval 0.13 writes it: a group with its average, and a group of a single task.
LIGHTEVAL: dict[str, Any] = {
    "config_general": {
        "max_samples": 10,
        "model_config": {
            "model_name": "org/tiny",
            "revision": "main",
            "dtype": "bfloat16",
            "generation_parameters": {"temperature": 0, "top_p": None},
            "override_chat_template": False,
        },
    },
    "results": {
        "mmlu:law|5": {"acc": 0.5, "acc_stderr": 0.1},
        "mmlu:stem|5": {"acc": 0.25, "acc_stderr": 0.2},
        "mmlu:_average|5": {"acc": 0.375, "acc_stderr": 0.15},
        "mmlu_pro:law|5": {"acc": 0.125, "acc_stderr": float("nan")},
        "all": {"acc": 0.3125},
    },
    "config_tasks": {"mmlu:law|5": {"effective_num_docs": 10}},
    "versions": {"mmlu:law|5": 0},
    "summary_tasks": {},
    "summary_general": {},
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make UTC the local time zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def read_json(document: Any, name: str = "results.json") -> list[ScoredRow]:
    found = read_result(json.dumps(document).encode(), f"/nowhere/{name}")
    assert found is not None
    return found


def changed(path: Path, **keys: Any) -> dict[str, Any]:
    """Return a golden result with keys replaced; if both values are objects, they are merged."""
    document: dict[str, Any] = json.loads(path.read_text())
    for key, value in keys.items():
        old = document.get(key)
        document[key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    return document


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_real_result_says_is_golden(kind: str, tmp_path: Path) -> None:
    shutil.copytree(NATIVE / kind, tmp_path / kind)
    lines = []
    for path in sorted((tmp_path / kind).glob("*.json")):
        os.utime(path, (MODIFIED, MODIFIED))
        for scored in read_result(path.read_bytes(), str(path)) or []:
            lines += [
                json.dumps(record._asdict())
                for record in make_metric_records(scored, PrimaryMetrics({}))
            ]
    text = "".join(f"{line}\n" for line in lines).replace(str(tmp_path), "/results")
    assert_golden(f"native/{kind}/records.jsonl", text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'{"results": {', "it is not JSON: Expecting"),
        (b"[" * 100_000, "it is not JSON: "),
        (b"\xff\xfe", "it is not JSON: "),
        (b'{"results": [], "config": {}}', "results: expected an object, got list"),
        (b'{"results": {"a": 1}, "config": {}}', "a: expected an object, got int"),
        (b'{"results": {}, "config": {}}', "no metric has a finite value"),
    ],
)
def test_what_is_damaged_says_how(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_result(content, "results.json")
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    "document",
    [{}, [], 5, {"architectures": ["Llama"]}, {"results": {}}],
)
def test_what_is_no_result_is_nobodys(document: Any) -> None:
    assert read_result(json.dumps(document).encode(), "config.json") is None


def test_values_that_are_no_numbers_are_left_out_and_named() -> None:
    bad = {"alias": "x", "acc,none": math.nan, "acc_norm,none": "0.5", "f1,none": 0.5}
    bad["f1_stderr,none"] = math.nan
    scored = {
        s.row["task_path"]: s for s in read_json(changed(LM_EVAL, results={"mini_copy": bad}))
    }
    assert scored["mini_copy"].remarks == (
        "acc of mini_copy is NaN",
        "acc_norm of mini_copy is '0.5'",
    )
    (metric,) = scored["mini_copy"].scores
    assert (metric.metric, metric.stderr) == ("f1", None)
    assert scored["mini"].remarks == ()


def test_a_groups_value_without_its_tasks_is_left_out_and_named() -> None:
    document = changed(LM_EVAL)
    for task in ("mini_algebra", "mini_geometry"):
        del document["results"][task]
    mini = next(s for s in read_json(document) if s.row["task_path"] == "mini")
    kinds = {m.task: m.aggregate for m in mini.scores}
    assert kinds == {"mini_law": "", "mini": "partial"}
    assert mini.remarks == ("acc of mini_stem is left out: some of its tasks have none",)


def test_a_task_that_has_no_score_is_named_beside_others() -> None:
    other = {"alias": "x", "acc,none": math.inf}
    scored = read_json(changed(LM_EVAL, results={"mini_copy": other}))
    assert [(s.scores, s.remarks) for s in scored if s.row["task_path"] == "mini_copy"] == [
        ([], ("acc of mini_copy is Infinity",))
    ]


@pytest.mark.parametrize(
    ("given", "cell"),
    [
        ("pretrained=org/m", "org/m"),
        (
            "pretrained=org/m,revision=step1000,dtype=float16",
            "org/m,revision=step1000,dtype=float16",
        ),
        (
            "dtype=auto,pretrained=/x/iter_1000,device=cpu,parallelize=True",
            "/x/iter_1000",
        ),
        ("pretrained=org/m,revision=main", "org/m"),
        (
            {"pretrained": "org/m", "peft": "org/p", "use_cache": False},
            "org/m,peft=org/p,use_cache=false",
        ),
        ({"model": "gpt", "base_url": "http://x", "token": "secret"}, "gpt"),
        (None, "models/tiny/iter_0001000"),
    ],
)
def test_a_model_is_named_as_a_manifest_names_it(given: Any, cell: str) -> None:
    scored = read_json(changed(LM_EVAL, config={"model_args": given}))
    assert {s.row["model_path"] for s in scored} == {cell}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"config": {"model_args": "/a,b=c"}}, "model_args: expected key=value, got '/a'"),
        ({"config": {"model_args": 5}}, "model_args: expected a text or an object, got int"),
        ({"config": {"limit": "ten"}}, "limit: expected a number, got 'ten'"),
        ({"config": {"limit": 2.5}}, "limit: expected a number of documents"),
        ({"group_subtasks": {"mini": "x"}}, "group_subtasks: mini: expected a list of names"),
        ({"n-samples": []}, "n-samples: expected an object, got list"),
    ],
)  # fmt: skip
def test_cells_that_cannot_be_are_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_json(changed(LM_EVAL, **keys))
    assert str(raised.value).startswith(reason)


def test_settings_that_change_scores_are_cells() -> None:
    config = {"model": "vllm", "limit": 7.0, "fewshot_seed": 5, "model_sha": "abc"}
    config |= {"gen_kwargs": {"until": ["a,b"], "temperature": 0.5}}
    keys = {
        "system_instruction": "Be brief.",
        "chat_template": "{{x}}",
        "fewshot_as_multiturn": False,
    }
    row = read_json(changed(LM_EVAL, config=config, **keys))[0].row
    assert {name: row[name] for name in ("backend", "limit", "seed", "model_revision")} == {
        "backend": "vllm",
        "limit": "7",
        "seed": "0,1234,1234,5",
        "model_revision": "abc",
    }
    assert row.value("gen_kwargs") == {"until": ["a,b"], "temperature": "0.5"}
    assert row["system_instruction"] == "Be brief."
    assert (row["apply_chat_template"], row["fewshot_as_multiturn"]) == ("true", "false")


def test_names_that_begin_alike_are_not_the_same() -> None:
    values = {"acc,none": 0.5}
    names = ["mini_law", "mini_law_school", "mini_lawyers"]
    scored = read_json(
        {
            "results": {**dict.fromkeys(names, values), "mini": values},
            "group_subtasks": {"mini": ["mini_law"]},
            "config": {"model_args": "pretrained=/x/iter_10000"},
            "n-samples": {"mini_law": {"effective": 4}},
        }
    )
    asked = {s.row["task_path"]: [m.task for m in s.scores] for s in scored}
    assert asked == {
        "mini_law_school": ["mini_law_school"],
        "mini_lawyers": ["mini_lawyers"],
        "mini": ["mini_law", "mini"],
    }
    assert {s.row["model_path"] for s in scored} == {"/x/iter_10000"}


def test_lighteval_groups_by_the_colon() -> None:
    group, other = read_json(LIGHTEVAL, "results_2024-05-01T12-30-45.123456.json")
    assert group.row.cells == {
        "model_path": "org/tiny,dtype=bfloat16",
        "eval_suite": "lighteval",
        "limit": "10",
        "gen_kwargs": "temperature=0",
        "apply_chat_template": "false",
        "task_path": "mmlu",
        "n_shot": "5",
    }
    assert group.finished == "2024-05-01T12:30:45+00:00"
    shown = [(m.task, m.group, m.stderr, m.n_samples, m.aggregate) for m in group.scores]
    assert shown == [
        ("mmlu:law", "mmlu", 0.1, 10, ""),
        ("mmlu:stem", "mmlu", 0.2, None, ""),
        ("mmlu", "", None, None, "reported"),
    ]
    assert other.row["task_path"] == "mmlu_pro:law"
    assert other.scores[0].stderr is None


def test_an_evaluation_of_bigcodebench_is_one_result(tmp_path: Path) -> None:
    for path in BIGCODEBENCH.parent.glob("*.json"):
        shutil.copy(path, tmp_path)
    scores = tmp_path / BIGCODEBENCH.name
    outcomes = tmp_path / BIGCODEBENCH.name.replace("pass_at_k", "eval_results")
    assert read_result(outcomes.read_bytes(), str(outcomes)) is None
    (both,) = read_result(scores.read_bytes(), str(scores)) or []
    scores.rename(tmp_path / "elsewhere.json")
    (alone,) = read_result(outcomes.read_bytes(), str(outcomes)) or []
    assert both.row.cells == alone.row.cells
    # The evaluation asked for pass@2, which bigcodebench does not compute by default.
    assert both.scores[0] == alone.scores[0]
    outcomes.unlink()
    (bare,) = read_result((tmp_path / "elsewhere.json").read_bytes(), str(scores)) or []
    assert bare.scores == [m._replace(stderr=None, n_samples=None) for m in both.scores]


def test_reference_solutions_that_fail_are_told() -> None:
    (scored,) = read_json(changed(BIGCODEBENCH, gt_pass_rate=0.98), BIGCODEBENCH.name)
    assert scored.remarks == ("gt_pass_rate is 0.98: reference solutions fail on that machine",)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("a--b--x1--bigcodebench-instruct--vllm-0.2-5-s", ("a/b,revision=x1", "instruct")),
        ("a--b--skip_prefill--main--bigcodebench-hard-complete--hf-0-1", ("a/b", "hard-complete")),
        ("my_samples", ("org--tiny--main", "hard-complete")),
    ],
)  # fmt: skip
def test_bigcodebench_names_its_files(name: str, cells: tuple[str, str]) -> None:
    document = changed(BIGCODEBENCH)
    if "instruct" in name:
        document |= {"split": "instruct", "subset": "full"}
    row = read_json(document, f"{name}_pass_at_k.json")[0].row
    assert (row["model_path"], row["task_path"].removeprefix("bigcodebench-")) == cells


def test_bigcode_that_generated_says_how() -> None:
    config = {"load_generations_path": None, "limit": 20, "limit_start": 5, "precision": "bf16"}
    (scored,) = read_json(changed(BIGCODE, config=config))
    assert scored.row["model_path"] == "org/tiny,revision=step1000,dtype=bfloat16"
    assert scored.row.value("gen_kwargs")["temperature"] == "0.2"
    assert scored.row["limit"] == "20"
    assert scored.notes == ("its first 5 documents were left out",)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a document, including objects and lists."""
    yield path
    inner = {list: enumerate, dict: dict.items}.get(type(value))
    for key, item in inner(value) if inner else ():
        yield from paths_of(item, (*path, key))


MADE_UP = [generate(kind, seed=1) for kind in GENERATORS]
TEXTS = [
    *((path.name, path.read_text()) for path in FILES),
    ("x.json", json.dumps(LIGHTEVAL)),
    *((made.name, json.dumps(made.document)) for made in MADE_UP),
]
OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [1], {"a": 1}, "a,b", [{}], {"a": {}}, {"acc,none": 1}]),
    st.sampled_from(["\ud800", "a\0b", "a\nb", 'p={"x": [1', "[" * 5000, {"a=b": {"c": 1}}]),
)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_whatever_is_damaged_ends_in_an_error_or_sound_records(data: st.DataObject) -> None:
    name, text = data.draw(st.sampled_from(TEXTS))
    document = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from([p for p in paths_of(document) if p]))
        parent = document
        for key in above:
            parent = parent[key]
        parent[last] = copy.deepcopy(data.draw(OTHERS))
    try:
        found = read_result(json.dumps(document).encode(), f"/nowhere/{name}")
    except ValueError as error:
        assert str(error)
        return
    for scored in found or []:
        assert scored.row.meanings()
        for record in make_metric_records(scored, PrimaryMetrics({})):
            assert math.isfinite(record.value)
            assert record.stderr is None or math.isfinite(record.stderr)
            json.dumps(record._asdict(), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_a_truncated_result_is_an_error(path: Path, part: float) -> None:
    content = path.read_bytes().rstrip()
    # An empty file is damaged only if it is named like a result.
    name = str(path.with_name(f"results_{path.name}"))
    with pytest.raises(ValueError, match=r"it is not JSON|the file is empty"):
        read_result(content[: int(len(content) * part)], name)
