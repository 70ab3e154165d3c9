"""Scores of documents: which lines count, when their mean is the score, and damaged files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oellm.collect.samples import RowSamples
from oellm.metrics.records import MetricRecord
from support.scored_documents import (
    record,
    record_of,
    sample,
    samples_of,
    write_groups,
    write_samples,
)

NO_MEAN = "the score is not a mean over the documents"
# Parts of prompts that look like the structure of a line.
TEXTS = st.lists(
    st.sampled_from(['"doc":', '"filter":', "\\", '"', "{", "}", ",", " ", "\n", "é"])
).map("".join)

KEYS = list(sample(0, {"acc": 1.0}))


def scores(record: MetricRecord, *others: MetricRecord) -> tuple[list[float], str]:
    found = RowSamples([record, *others]).document_scores(record)
    return list(found.scores.values()), found.reason or ""


def test_task_filter_and_metric_choose_the_values(tmp_path: Path) -> None:
    lines = [
        *(sample(n, {"acc": n == 0, "f1": 0.25}) for n in range(4)),
        *(sample(n, {"acc": n < 3}, filter="strict") for n in range(4)),
        *(sample(n, {"acc": 1}, task="boolq") for n in range(2)),
    ]
    write_samples(tmp_path, lines)
    of_run = {"run_dir": str(tmp_path), "n_samples": 4}
    wanted = [
        record(value=0.25, **of_run),
        record(value=0.75, filter="strict", **of_run),
        record(value=0.25, metric="f1", **of_run),
    ]
    assert scores(wanted[0], *wanted) == ([1.0, 0.0, 0.0, 0.0], "")
    assert scores(wanted[1], *wanted) == ([1.0, 1.0, 1.0, 0.0], "")
    assert scores(wanted[2], *wanted) == ([0.25] * 4, "")


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.permutations(KEYS))
@example('"filter":', [*KEYS[2:], *KEYS[:2]])
@example("", [*KEYS[:7], "acc", *KEYS[7:-1]])
def test_neither_prompts_nor_the_order_of_keys_matter(text: str, keys: list[str]) -> None:
    values = (1.0, 0.0, 0.5)
    usual = samples_of(values, text=text)
    ordered = [{key: line[key] for key in keys} for line in usual]
    found = []
    with tempfile.TemporaryDirectory() as directory:
        wanted = record_of(values, run_dir=directory)
        for lines in (usual, ordered):
            write_samples(Path(directory), lines)
            found.append(RowSamples([wanted]).document_scores(wanted))
    assert found[0] == found[1]
    assert list(found[0][0].values()) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("value", [[-1.5, 3], None, "0.5", {"filter": 1}, 1e101])
def test_values_other_than_numbers_have_no_mean(tmp_path: Path, value: Any) -> None:
    write_samples(tmp_path, [*samples_of([1.0]), sample(1, {"acc": value})])
    assert scores(record(value=1.0, run_dir=str(tmp_path))) == ([], NO_MEAN)


def test_the_mean_must_be_the_score(tmp_path: Path) -> None:
    write_samples(tmp_path, samples_of([0.1] * 3))
    at = {"run_dir": str(tmp_path)}
    assert scores(record(value=0.1, n_samples=3, **at)) == ([0.1] * 3, "")
    assert scores(record(value=0.1001, n_samples=3, **at)) == ([], NO_MEAN)
    cut = "there are samples of only 3 of 4 documents"
    assert scores(record(value=0.2, n_samples=4, **at)) == ([], cut)


def test_a_document_without_the_metric_does_not_count(tmp_path: Path) -> None:
    write_samples(tmp_path, [*samples_of([1.0, 0.0]), sample(2, {"f1": 0.0})])
    assert scores(record(value=0.5, n_samples=3, run_dir=str(tmp_path))) == ([1.0, 0.0], "")


def test_a_repeated_document_counts_each_time(tmp_path: Path) -> None:
    write_samples(tmp_path, [sample(0, {"acc": value}) for value in (1, 0, 0, 1)])
    assert scores(record(value=0.5, run_dir=str(tmp_path))) == ([1.0, 0.0, 0.0, 1.0], "")


def test_a_group_has_the_documents_of_its_tasks_once(tmp_path: Path) -> None:
    write_groups(tmp_path, {"mmlu": ["stem", "law"], "stem": ["law", "algebra"]})
    lines = [*samples_of([1, 0, 0], task="law"), *samples_of([1], task="algebra")]
    write_samples(tmp_path, lines)
    at = {"run_dir": str(tmp_path), "aggregate": "reported", "task": "mmlu"}
    assert sorted(scores(record(value=0.5, n_samples=4, **at))[0]) == [0, 0, 1, 1]
    # The mean of the tasks' means is not the mean over documents.
    assert scores(record(value=2 / 3, n_samples=4, **at)) == ([], NO_MEAN)
    write_samples(tmp_path, lines[:3])
    assert scores(record(value=1 / 3, n_samples=3, **at)) == ([], "")


def test_lm_evals_own_samples_are_found_by_task_and_time(tmp_path: Path) -> None:
    result = tmp_path / "results_2026-01-02T03-04-05.678901.json"
    result.write_text(json.dumps({"group_subtasks": {"both": ["a", "a_b"]}}))
    for task, values in (("a", [1, 1]), ("a_b", [0])):
        lines = [{**line} for line in samples_of(values)]
        for line in lines:
            del line["task"]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"samples_{task}_2026-01-02T03-04-05.678901.jsonl").write_text(text)
    at = {"run_dir": str(result), "eval_id": ""}
    assert scores(record(task="a", value=1.0, n_samples=2, **at)) == ([1, 1], "")
    both = record(task="both", value=2 / 3, n_samples=3, aggregate="reported", **at)
    assert sorted(scores(both)[0]) == [0, 1, 1]
    assert scores(record(task="b", **at)) == ([], "")


def test_samples_of_spring_2024_are_json_lines_without_digests(tmp_path: Path) -> None:
    old, new = tmp_path / "results_2024-05-01T00-00-00.0.json", tmp_path / "results_new.json"
    documents = [{"question": f"é {n}", "choices": ["a", 1.5, None]} for n in range(3)]
    for path, ending in ((old, "json"), (new, "jsonl")):
        lines = []
        for number, (document, value) in enumerate(zip(documents, [1, 0, 1], strict=True)):
            line: dict[str, Any] = {"doc_id": number, "doc": document, "target": "1", "acc": value}
            if path is new:
                text = json.dumps(document, indent=2, ensure_ascii=False)
                line["doc_hash"] = hashlib.sha256(text.encode()).hexdigest()
                line["target_hash"] = hashlib.sha256(b"1").hexdigest()
                line["metrics"] = ["acc"]
            lines.append(json.dumps(line) + "\n")
        name = path.name.replace("results", "samples_a").replace(".json", f".{ending}")
        path.with_name(name).write_text("".join(lines))
    found = []
    for path in (old, new):
        wanted = record(task="a", value=2 / 3, run_dir=str(path), eval_id="", filter="none")
        found.append(RowSamples([wanted]).document_scores(wanted).scores)
    # The same documents have the same identity, whoever computed the digests.
    assert found[0] == found[1]
    assert list(found[0].values()) == [1, 0, 1]


@pytest.mark.parametrize(
    "line", ["", "[1]", "{}", "null", '{"doc_id": []}', '{"task": {}}', '{"a": NaN}', "\x00"]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = write_samples(tmp_path, samples_of([1.0, 1.0]))
    path.write_text(path.read_text() + line + "\n")
    damaged = f"{path}:3: no sample"
    assert scores(record(value=1.0, n_samples=2, run_dir=str(tmp_path))) == ([], damaged)


def test_missing_samples_are_no_error(tmp_path: Path) -> None:
    at = record(run_dir=str(tmp_path))
    assert scores(at) == ([], "")
    assert scores(record(run_dir=str(tmp_path), aggregate="derived")) == ([], "")
    assert scores(record(run_dir="")) == ([], "")
    assert scores(record(run_dir=str(tmp_path), eval_id="", task="a/b")) == ([], "")
    path = tmp_path / "samples" / "0123456789abcdef.jsonl"
    path.mkdir(parents=True)
    assert scores(at) == ([], f"{path}: it is a directory, not a regular file")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_neither_raises_nor_changes_scores(data: st.DataObject) -> None:
    values = (1.0, 0.0, 0.5, 0.125)
    with tempfile.TemporaryDirectory() as directory:
        path = write_samples(Path(directory), samples_of(values))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 2))
        if data.draw(st.booleans()):
            del content[place:]
        else:
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        found, _ = scores(record_of(values, run_dir=directory))
    # Damage in the part of a line that the reader skips goes unnoticed.
    assert found in ([], list(values))
