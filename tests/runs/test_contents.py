"""What a result was computed from, and what has changed since."""

from __future__ import annotations

import pytest

from oellm.runs.contents import Contents, find_changes

WHOLE = Contents(
    model="0123456789abcdef",
    task="1111111111111111",
    task_version="1.0",
    data="org/a@1111111111111111 org/b@2222",
    chat_template="2222222222222222",
)


@pytest.mark.parametrize(
    ("new", "changes"),
    [
        (WHOLE, []),
        (Contents(), []),
        (WHOLE._replace(model="ffff456789abcdef"), ["weights changed"]),
        (
            WHOLE._replace(model="01234567ffffffff"),
            ["configuration or tokenizer of the model changed"],
        ),
        (WHOLE._replace(model="f" * 40), ["model: commit 0123456789ab → ffffffffffff"]),
        (WHOLE._replace(task="3" * 16), ["task hellaswag changed"]),
        # The version says more than the digest, which changes with it.
        (
            WHOLE._replace(task="3" * 16, task_version="2.0"),
            ["task hellaswag: version 1.0 → 2.0"],
        ),
        # A version without a digest on both sides is all that tells.
        (WHOLE._replace(task="", task_version="2.0"), ["task hellaswag: version 1.0 → 2.0"]),
        (WHOLE._replace(task_version="2.0"), []),
        (WHOLE._replace(data="org/b@2222 org/a@1111111111111111"), []),
        (WHOLE._replace(data="org/b@3333 org/c@1"), ["data org/b: 2222 → 3333"]),
        (WHOLE._replace(chat_template="3" * 16), ["chat template changed"]),
    ],
)
def test_compares_only_what_both_know(new: Contents, changes: list[str]) -> None:
    assert find_changes(WHOLE, new, "hellaswag") == changes
    assert find_changes(Contents(), new) == []


def test_travels_through_json_without_what_is_unknown() -> None:
    partly = Contents(model="0123456789abcdef", data="org/a@1")

    assert partly.to_json() == {"model": "0123456789abcdef", "data": "org/a@1"}
    assert Contents.from_json(partly.to_json()) == partly
    assert Contents.from_json(WHOLE.to_json()) == WHOLE


@pytest.mark.parametrize("damaged", [None, 3, "text", [], {"model": 3, "task": None}])
def test_takes_damaged_contents_for_unknown(damaged: object) -> None:
    assert Contents.from_json(damaged) == Contents()


def test_fills_what_is_unknown_from_another() -> None:
    assert Contents(task="3" * 16).filled(WHOLE) == WHOLE._replace(task="3" * 16)
