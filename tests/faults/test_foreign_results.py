"""Results that other tools have left: read as what they are, or named with the reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from support.processes import Run, rows_of

VALUES = {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.125}


def lm_eval(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a result of lm-eval."""
    usual = {"results": {"arc": VALUES}, "configs": {"arc": {}}, "n-shot": {"arc": 0}}
    return {**usual, "versions": {"arc": 1.0}, "config": {"model": "hf", **config}, **more}


OLD = {
    "results": {"a": {"acc": 0.25, "acc_stderr": 0.125}, "b": {"ppl": 12.5}},
    "versions": {"a": 0, "b": 1},
    "config": {"model": "hf-causal", "model_args": "pretrained=o/m", "num_fewshot": [3, 4]},
}
EVALPLUS = {
    "hash": "0",
    "eval": {
        f"HumanEval/{n}": [{"base_status": status, "plus_status": "fail"}]
        for n, status in enumerate(["pass", "fail"])
    },
}
EVALCHEMY = {
    "results": {"AIME24": {"accuracy_avg": 0.05, "accuracy_std_err": 0.005, "num_total": 30}},
    "config": {"model": "vllm", "model_args": "pretrained=o/m"},
}
STRUCTURED = {"pretrained": "o/m", "limit_mm": {"image": 2, "audio": 1}, "stop": ["a, b"]}
HUB = "/c/hub/models--o--m/snapshots/0123abc"

# File name, content, and the model, task, shots, metric, filter and value of each score.
CASES: dict[str, tuple[str, Any, list[str]]] = {
    "lm-eval 0.3": ("out.json", OLD, ["o/m a 3 acc none 0.25", "o/m b 4 ppl none 12.5"]),
    "arguments with JSON": (
        "results_1.json",
        lm_eval({"model_args": STRUCTURED}),
        ["o/m arc 0 acc none 0.5"],
    ),
    "arguments with JSON in a text": (
        "results_1.json",
        lm_eval({"model_args": 'pretrained=o/m,limit_mm={"image":2,"audio":1}'}),
        ["o/m arc 0 acc none 0.5"],
    ),
    "a path with commas": (
        "results_1.json",
        lm_eval({"model_args": {"pretrained": "/r/lr=1,bs=8"}}),
        ['"/r/lr=1,bs=8" arc 0 acc none 0.5'],
    ),
    "a hub's cache": (
        "results_1.json",
        lm_eval({"model_args": f"pretrained={HUB}"}),
        ["o/m arc 0 acc none 0.5"],
    ),
    "evalplus after sanitizing": (
        "o--m_vllm_temp_0.0-sanitized_eval_results.json",
        EVALPLUS,
        ["o/m humaneval 0 pass@1 base 0.5", "o/m humaneval 0 pass@1 plus 0.0"],
    ),
    "evalchemy": ("results_1.json", EVALCHEMY, ["o/m AIME24 0 accuracy_avg none 0.05"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_result_is_read_as_what_it_says(run: Run, tmp_path: Path, name: str) -> None:
    file_name, document, expected = CASES[name]
    (tmp_path / file_name).write_text(json.dumps(document))
    done = run("oe-collect", tmp_path)
    rows = rows_of(done.stdout)
    columns = ("model_path", "task", "n_shot", "metric", "filter", "value")
    assert [" ".join(row[column] for column in columns) for row in rows] == expected
    assert done.stderr == ""
    if "JSON" in name:
        assert json.loads(rows[0]["model_args"])["limit_mm"] == {"image": 2, "audio": 1}
    if name == "a hub's cache":
        assert rows[0]["model_revision"] == "0123abc"


BIGCODEBENCH = {"split": "complete", "subset": "full", "gt_pass_rate": 1.0, "pass@1": 0.5}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        (
            EVALPLUS,
            [f"o--m_hf_temp_0.0{e}_eval_results.json" for e in (".raw", "", "-sanitized")]
            + ["o--m_hf_temp_0.0-sanitized-calibrated.eval_results.json"],
        ),
        (
            BIGCODEBENCH,
            [
                f"o--m--main--bigcodebench-complete--vllm-0-1{ending}_pass_at_k.json"
                for ending in ("", "_calibrated", "-sanitized", "-sanitized_calibrated")
            ],
        ),
    ],
)
def test_what_programs_went_through_before_makes_another_evaluation(
    run: Run, tmp_path: Path, document: dict[str, Any], names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_text(json.dumps(document))
    done = run("oe-collect", "--primary", "--columns=gen_kwargs", tmp_path)
    assert len(set(done.stdout.splitlines()[1:])) == len(names)
    assert done.stderr == ""


def test_a_model_has_one_name_however_results_spell_it(run: Run, tmp_path: Path) -> None:
    spellings: list[Any] = [
        "pretrained=/m/iter_5,add_bos_token=True,max_length=5",
        "max_length=5,pretrained=/m//iter_5/,add_bos_token=TRUE",
        {"add_bos_token": True, "max_length": 5, "pretrained": "/m/./iter_5", "device": "cuda"},
    ]
    for number, arguments in enumerate(spellings):
        document = lm_eval({"model_args": arguments})
        document["results"] = {f"task_{number}": VALUES}
        (tmp_path / f"results_{number}.json").write_text(json.dumps(document))
    done = run("oe-pivot", tmp_path)
    assert done.stdout.splitlines()[1:] == [
        '"/m/iter_5,add_bos_token=true,max_length=5",0.5,0.5,0.5'
    ]


def test_every_metric_but_the_infinite_one_stays(run: Run, tmp_path: Path) -> None:
    values = '{"ppl,none": Infinity, "ppl_stderr,none": NaN, "bits,none": 1.5}'
    text = json.dumps(lm_eval({"model_args": "pretrained=o/m"})).replace(json.dumps(VALUES), values)
    path = tmp_path / "results_1.json"
    path.write_text(text)
    done = run("oe-collect", "--columns=metric,value,remark", path, status=1)
    assert done.stdout == "metric,value,remark\nbits,1.5,ppl is Infinity\n"
    assert f"oe-collect: {path}: ppl of arc is Infinity\n" in done.stderr


def test_a_result_of_another_tool_counts_for_the_row_that_it_is_of(
    run: Run, tmp_path: Path
) -> None:
    manifest = (
        "model_path,task_path,n_shot,model_revision\n"
        f"o/m,arc_easy,0,{'0123abcd' * 5}\no/m,arc_easy,0,{'9' * 40}\n"
    )
    base = ["--cluster=local", "--set=executor=local", "--set=venv="]
    rendered = run("oe-render", *base, f"--run_dir={tmp_path / 'run'}", stdin=manifest)
    assert json.loads(rendered.stdout)["n_rows"] == 2
    results = tmp_path / "results"
    results.mkdir()
    path = HUB.replace("0123abc", "0123abcd" * 5)
    document = lm_eval({"model_args": f"pretrained={path}"})
    document |= {"results": {"arc_easy": VALUES}, "n-shot": {"arc_easy": 0}}
    (results / "results_1.json").write_text(json.dumps(document))
    missing = run("oe-missing", tmp_path / "run", results)
    assert [row["model_revision"] for row in rows_of(missing.stdout)] == ["9" * 40]
    # A result of chosen documents is of no row.
    document["n-samples"] = {"arc_easy": {"original": 10, "effective": 3}}
    (results / "results_1.json").write_text(json.dumps(document))
    missing = run("oe-missing", tmp_path / "run", results)
    assert len(missing.stdout.splitlines()) == 3
    assert "3 chosen documents of 10 were evaluated" in missing.stderr


def test_old_and_new_samples_of_the_same_documents_are_paired(run: Run, tmp_path: Path) -> None:
    for side, (model, time) in enumerate([("o/a", "2024-05-01T00-00-00.1"), ("o/b", "2026.1")]):
        place = tmp_path / model.partition("/")[2]
        place.mkdir()
        scores = [1, 0, 1, side]
        samples = {"original": len(scores), "effective": len(scores)}
        values = {"alias": "arc", "acc,none": sum(scores) / len(scores), "acc_stderr,none": 0.25}
        document = lm_eval({"model_args": f"pretrained={model}"}, **{"n-samples": {"arc": samples}})
        document["results"] = {"arc": values}
        (place / f"results_{time}.json").write_text(json.dumps(document))
        lines = []
        for number, score in enumerate(scores):
            line: dict[str, Any] = {"doc_id": number, "doc": {"q": f"é{number}"}, "target": "1"}
            if side:
                text = json.dumps(line["doc"], indent=2, ensure_ascii=False)
                line["doc_hash"] = hashlib.sha256(text.encode()).hexdigest()
                line["target_hash"] = hashlib.sha256(b"1").hexdigest()
            lines.append(json.dumps({**line, "acc": score}) + "\n")
        ending = "jsonl" if side else "json"
        (place / f"samples_arc_{time}.{ending}").write_text("".join(lines))
    done = run("oe-compare", "--format=jsonl", tmp_path / "a", tmp_path / "b")
    (record,) = map(json.loads, done.stdout.splitlines())
    assert (record["method"], record["n_samples"], record["difference"]) == ("paired", 4, 0.25)
    assert "skipped 1 JSON file that is not a result" in done.stderr
