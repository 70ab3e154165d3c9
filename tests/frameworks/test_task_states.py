"""The versions and hashes of the tasks behind a result of lm-eval."""

from __future__ import annotations

import hashlib
from typing import Any

from oellm.frameworks.lm_eval.metrics import task_states
from oellm.runs.environment import TaskState


def native(**keys: Any) -> dict[str, Any]:
    return {
        "results": {"mmlu": {}, "mmlu_law": {}, "mmlu_art": {}},
        "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"]},
        **keys,
    }


def test_a_group_has_a_hash_of_the_hashes_of_its_tasks() -> None:
    hashes = {"mmlu_law": "b" * 64, "mmlu_art": "a" * 64}
    versions = {"mmlu": 2, "mmlu_law": 1.0, "mmlu_art": "N/A"}
    states = task_states(native(task_hashes=hashes, versions=versions))
    joint = hashlib.sha256(("a" * 64 + "b" * 64).encode()).hexdigest()
    assert states == {
        "mmlu": TaskState("2", joint),
        "mmlu_law": TaskState("1.0", "b" * 64),
        "mmlu_art": TaskState("", "a" * 64),
    }


def test_what_a_task_does_not_tell_is_unknown_for_its_group() -> None:
    states = task_states(native(task_hashes={"mmlu_law": "b" * 64}, versions={"mmlu_law": 1}))
    assert states["mmlu"] == TaskState("", "")
    assert set(task_states(native()).values()) == {TaskState()}


def test_a_group_without_a_version_has_that_of_all_its_tasks() -> None:
    states = task_states(native(versions={"mmlu_law": 1, "mmlu_art": 1}))
    assert states["mmlu"].version == "1"
