"""What a record tells about the environment and the tasks, whatever it holds."""

from __future__ import annotations

from typing import Any

import pytest

from oellm.runs.environment import Environment, TaskState, read_task_states


def test_what_is_written_is_read_back() -> None:
    environment = Environment("0.4.13", "hf", dtype="float32")
    assert environment.to_json() == {
        "framework_version": "0.4.13",
        "backend": "hf",
        "dtype": "float32",
    }
    assert Environment.from_json(environment.to_json()) == environment
    state = TaskState("1.0", "abc")
    assert read_task_states({"arc": state.to_json()}) == {"arc": state}


@pytest.mark.parametrize("content", [None, [], "text", 7, {"dtype": 7, "version": {}}])
def test_what_is_damaged_is_unknown(content: Any) -> None:
    assert Environment.from_json(content) == Environment()
    assert TaskState.from_json(content) == TaskState()
    assert set(read_task_states(content).values()) <= {TaskState()}
