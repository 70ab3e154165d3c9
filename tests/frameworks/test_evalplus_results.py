"""Results of evalplus, which says most in the names of its files."""

from __future__ import annotations

import json

import pytest

from oellm.frameworks.reading.detect import read_result
from support.result_documents import EVALPLUS, read


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
