"""Files that are no results are passed over; damaged results are refused with a reason."""

from __future__ import annotations

import json

import pytest

from oellm.frameworks.reading.detect import read_result
from support.result_documents import read, result


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
