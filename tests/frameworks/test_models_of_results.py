"""The model of a result: its name, arguments and commit, or a name that is marked as a guess."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.result_documents import EVALPLUS, read, result


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
