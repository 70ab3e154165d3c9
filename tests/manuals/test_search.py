"""Passages of the documentation that have some words."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.manuals import topics
from oellm.manuals.search import find_passages
from oellm.manuals.topics import Topic

PAGE = """\
# Title

A cat sits
on the mat.
- a dog
- a Cat, too

## Part

| animal | sound |
|---|---|
| cat | meow |
| dog | woof |

```text
Options:
  --cat=NAME  a pet
  --dog       another,
              no cat

The CAT again.
```
"""


@pytest.fixture
def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topic:
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(topics, "data_file", tmp_path.joinpath)
    return Topic("page", "page.md", "")


def found(topic: Topic, *words: str) -> list[tuple[str, str]]:
    passages = find_passages(words, [topic], [topic])
    return [(passage.heading, passage.text) for passage in passages]


def test_each_passage_with_the_word_is_found_by_itself(topic: Topic) -> None:
    assert found(topic, "cat") == [
        ("Title", "A cat sits\non the mat."),
        ("Title", "- a Cat, too"),
        ("Part", "| animal | sound |\n|---|---|\n| cat | meow |"),
        ("Part", "```text\n  --cat=NAME  a pet\n```"),
        ("Part", "```text\n  --dog       another,\n              no cat\n```"),
        ("Part", "```text\nThe CAT again.\n```"),
    ]


def test_all_words_count_in_any_order(topic: Topic) -> None:
    assert found(topic, "MAT", "sit") == [("Title", "A cat sits\non the mat.")]
    assert found(topic, "meow", "dog") == []
