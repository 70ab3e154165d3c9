"""Results of evalchemy: lm-eval's, with benchmarks of its own."""

from __future__ import annotations

from typing import Any

from support.result_documents import OLD, read, result

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
