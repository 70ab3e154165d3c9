"""Passages of the documentation that have some words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from oellm.manuals.page_text import split_blocks
from oellm.manuals.topics import Topic, resolve_links


class Passage(NamedTuple):
    """A paragraph, an item, a row of a table, an option, or some lines of code.

    Attributes:
        heading: Of the part of the page that has it.
        text: In Markdown.
    """

    topic: str
    heading: str
    text: str


def find_passages(
    words: Sequence[str], searched: Sequence[Topic], topics: Sequence[Topic]
) -> Iterator[Passage]:
    """Give the passages of some topics that have all words, in any case and order.

    A word is found in a longer one, too. Links are those of `topics`, which are all topics.
    """
    wanted = [word.lower() for word in words]
    for topic in searched:
        heading = ""
        for block, _ in split_blocks(resolve_links(topic.read(), topic.path, topics)):
            if block[0].startswith("#"):
                heading = block[0].lstrip("# ")
            for lines in _pieces(block):
                text = "\n".join(lines)
                lowered = " ".join(text.lower().split())
                if all(word in lowered for word in wanted):
                    yield Passage(topic.name, heading, text)


def _pieces(block: list[str]) -> Iterator[list[str]]:
    """Give what a block consists of, each as a block of the same kind."""
    if block[0].startswith("|"):
        head, rule, *rows = block
        for row in rows:
            yield [head, rule, row]
    elif block[0].startswith("```"):
        # Apart from paragraphs, the options of a manual.
        for part in re.split(r"\n\n|\n(?=  --)", "\n".join(block[1:-1])):
            yield [block[0], part, block[-1]]
    else:
        yield block
