"""Which scores of one task may be compared, and what is said of those that may not."""

from __future__ import annotations

from typing import Any

import pytest

from oellm.metrics.comparability import (
    describe_environments,
    describe_limits,
    describe_states,
    find_differences,
    find_mixture,
    letter_footnotes,
)
from oellm.metrics.records import MetricRecord

HASH, OTHER = "a" * 16, "b" * 16


def record(model: str = "m", **columns: Any) -> MetricRecord:
    usual = {"model_path": model, "task": "arc", "metric": "acc", "value": 0.5, "n_samples": 100}
    return MetricRecord(**{**usual, **columns})


@pytest.mark.parametrize(
    ("a", "b", "reasons"),
    [
        ({}, {}, []),
        ({"task_version": "1.0"}, {"task_version": "2.0"}, ["task version 1.0 → 2.0"]),
        ({"task_version": "1.0"}, {"task_version": "1"}, []),
        ({"task_version": "1.0"}, {"task_version": ""}, []),
        ({"task_hash": HASH}, {"task_hash": OTHER}, ["other documents or prompts"]),
        # Another version has other prompts, too: one reason is enough.
        (
            {"task_hash": HASH, "task_version": "1"},
            {"task_hash": OTHER, "task_version": "2"},
            ["task version 1.0 → 2.0"],
        ),
        # Prompts with a chat template depend on the model.
        (
            {"task_hash": HASH, "chat_template": "1" * 16},
            {"task_hash": OTHER, "chat_template": "2" * 16, "model_path": "n"},
            [],
        ),
        (
            {"task_hash": HASH, "chat_template": "1" * 16},
            {"task_hash": OTHER, "chat_template": "1" * 16, "model_path": "n"},
            ["other documents or prompts"],
        ),
        # A model has one template.
        (
            {"chat_template": "1" * 16},
            {"chat_template": "2" * 16},
            ["chat template 11111111 → 22222222"],
        ),
        (
            {"chat_template": "none"},
            {"chat_template": "used"},
            ["no chat template → chat template"],
        ),
        (
            {"dataset_revision": "org/x@1 org/y@1"},
            {"dataset_revision": "org/x@2 org/z@1"},
            ["data org/x 1 → 2"],
        ),
        # Whatever the commits are, the documents are the same.
        (
            {"dataset_revision": "org/x@1", "task_hash": HASH},
            {"dataset_revision": "org/x@2", "task_hash": HASH},
            [],
        ),
        ({"n_samples": 20}, {"n_samples": 10}, ["20 documents → 10 documents"]),
        ({"n_samples": 20, "limit": 20}, {"n_samples": 100}, ["limit 20 → no limit"]),
        ({"n_shot": 0}, {"n_shot": 5}, ["0 shots → 5 shots"]),
    ],
)
def test_scores_that_cannot_be_compared(
    a: dict[str, Any], b: dict[str, Any], reasons: list[str]
) -> None:
    assert find_differences(record(**a), record(**b)) == reasons
    mixture = find_mixture([record(**a), record(**b)])
    assert bool(mixture.summary) == bool(reasons)
    assert set(mixture.notes) == ({0, 1} if reasons else set())


def test_what_most_scores_of_a_line_have_is_not_marked() -> None:
    versions = ("1.0", "2.0", "1.0", "")
    found = find_mixture([record(str(n), task_version=v) for n, v in enumerate(versions)])
    assert found.summary == "task version 1.0 and 2.0"
    assert found.notes == {1: ["task version 2.0"]}


def test_scores_from_parts_of_a_group_are_marked_otherwise() -> None:
    records = [record(), record(aggregate="partial", n_samples=7), record(n_samples=8)]
    found = find_mixture(records)
    assert found.notes == {0: ["100 documents"], 2: ["8 documents"]}


def test_checkpoints_of_one_run_have_one_template() -> None:
    records = [
        record(f"run/iter_{step}", step=step, chat_template=template * 16)
        for step, template in ((1, "1"), (2, "1"), (3, "2"))
    ]
    assert find_mixture(records).notes == {2: ["chat template 22222222"]}
    named_otherwise = [each._replace(model_path=f"/r/anneal_{each.step}k") for each in records]
    assert find_mixture(named_otherwise).notes == {2: ["chat template 22222222"]}
    others = [each._replace(model_path=name) for each, name in zip(records, "abc", strict=True)]
    assert find_mixture([one._replace(step=None) for one in others]).notes == {}


def test_limits_are_named_as_captions_do() -> None:
    assert describe_limits([None, None]) == ""
    assert describe_limits([20, 20]) == "limit 20"
    assert describe_limits([None, 20, 0.5]) == "limit 20, limit 0.5, no limit"


def test_each_footnote_has_its_letter() -> None:
    letters = letter_footnotes(["x", "y", "x", *map(str, range(26))])
    assert (letters["x"], letters["y"], letters["23"], letters["24"]) == ("a", "b", "z", "aa")


def test_other_generation_arguments_are_told_by_task() -> None:
    sampled = {"gen_kwargs": "temperature=1"}
    scores = [record(), record(extra=sampled), record(task="other", extra=sampled)]
    assert describe_environments(scores[1:]) == []
    (text,) = describe_environments(scores)
    assert text == f"gen_kwargs of {scores[0].task}: of the task itself (1), temperature=1 (1)"


def test_other_weights_under_one_name_are_told() -> None:
    old, new = "a" * 16, "b" * 8 + "a" * 8
    scores = [
        record(model_digest=old),
        record(model_digest=""),
        record(model_digest=new, task="other"),
        record("n", model_digest=old),
        record("n", model_digest=f"{'0' * 8}{'a' * 8}", task="other"),
    ]
    assert describe_states(scores) == ["m: weights changed"]
    assert describe_states(scores[1:]) == []
