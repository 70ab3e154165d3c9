"""What scores were computed with, and the state of the tasks behind them, as a record tells it.

Both are read leniently: what is missing, as in older results, or damaged is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Environment(NamedTuple):
    """What a score was computed with, as far as it may change the score; an empty text is unknown.

    Attributes:
        framework_version: The version of the framework.
        backend: What ran the model, such as hf or vllm.
        dtype: The type of the loaded weights, such as bfloat16.
        hardware: The GPUs that the model was on, or the CPU.
        sandbox: What contained the code of the model that was run; empty if none was.
    """

    framework_version: str = ""
    backend: str = ""
    dtype: str = ""
    hardware: str = ""
    sandbox: str = ""

    @classmethod
    def from_json(cls, content: Any) -> Environment:
        """Read `environment` of a record."""
        return cls._make(read_texts(content, cls._fields))

    def to_json(self) -> dict[str, str]:
        """Return what is known."""
        return known_texts(self)


class TaskState(NamedTuple):
    """What a task or group was when it was scored; an empty text is unknown.

    Attributes:
        version: The version that it gives itself.
        hash: The framework's digest of its documents and prompts.
        remark: What is not as asked in its scores, such as a metric that is no number.
    """

    version: str = ""
    hash: str = ""
    remark: str = ""

    @classmethod
    def from_json(cls, content: Any) -> TaskState:
        """Read a value of `tasks` of a record."""
        return cls._make(read_texts(content, cls._fields))

    def to_json(self) -> dict[str, str]:
        """Return what is known."""
        return known_texts(self)


def read_task_states(content: Any) -> dict[str, TaskState]:
    """Read `tasks` of a record: the state of each task."""
    found = content.items() if isinstance(content, dict) else ()
    return {name: TaskState.from_json(state) for name, state in found}


def read_texts(content: Any, names: Sequence[str]) -> list[str]:
    """Return the texts of an object by name; empty for what is missing or no text."""
    if type(content) is not dict:
        return [""] * len(names)
    get = content.get
    try:
        # Adding a text is the fastest way to refuse anything else: this runs for each result.
        return [get(name, "") + "" for name in names]
    except TypeError:
        values = [get(name) for name in names]
        return [value if isinstance(value, str) else "" for value in values]


def known_texts(texts: NamedTuple) -> dict[str, str]:
    """Return the texts of a record by name, without the empty ones: what read_texts reads."""
    return {name: text for name, text in texts._asdict().items() if text}
