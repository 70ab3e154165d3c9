"""The pages of the documentation, by the names under which `oellm docs` shows them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from oellm.core.paths import data_file
from oellm.errors import nearest
from oellm.manuals.usage import CommandLineError

_INDEX = "docs/README.md"
_ROW = re.compile(r"^\| \[([\w-]+)\]\(([^)]+)\) \| (.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")


class Topic(NamedTuple):
    """A page of the documentation.

    Attributes:
        path: Of its file, from the directory of this project's data.
        about: What it is about, in one line.
    """

    name: str
    path: str
    about: str

    def read(self) -> str:
        """Return its text, in Markdown."""
        return _read(self.path)


def list_topics() -> list[Topic]:
    """Return all topics: those of the index in its order, then the commands by name."""
    topics = []
    for name, link, about in _ROW.findall(_read(_INDEX)):
        topics.append(Topic(name, _target(_INDEX, link), about))
    # The pages of commands have the names of these; others are written in capital letters.
    for file in sorted(data_file("docs").glob("[a-z]*.md")):
        path = f"docs/{file.name}"
        about = re.search(rf"^{file.stem}: (.*)\.$", _read(path), re.MULTILINE)
        topics.append(Topic(file.stem, path, about[1] if about else ""))
    return topics


def find_topic(name: str, topics: Sequence[Topic]) -> Topic:
    """Return the topic of this name: of any case, with .md or not, without the oe- of a command.

    Raises CommandLineError, which names the nearest one, if there is none.
    """
    wanted = posixpath.basename(name).lower().removesuffix(".md")
    for spelling in (wanted, f"oe-{wanted}", wanted.replace("-", "_"), wanted.replace("_", "-")):
        for topic in topics:
            if topic.name == spelling:
                return topic
    names = [topic.name for topic in topics]
    short = [each.removeprefix("oe-") for each in names]
    raise CommandLineError(
        f"unknown topic {name!r}{nearest(wanted, [*names, *short])}", "oellm docs"
    )


def resolve_links(text: str, path: str, topics: Sequence[Topic]) -> str:
    """Return a page with links that say what to type; `path` is that of its file."""
    names = {topic.path: topic.name for topic in topics}

    def resolve(link: re.Match[str]) -> str:
        label, target = link[1], link[2]
        if target.startswith("https://"):
            return f"{label} ({target})"
        name = names.get(_target(path, target))
        # A topic's own name is what to type; other files are not installed, or not to be read.
        if name is None or name == label:
            return label
        command = f"`oellm docs {name}`"
        return command if label.endswith(".md") else f"{label} ({command})"

    return _LINK.sub(resolve, text)


def _target(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link.partition("#")[0]))


def _read(path: str) -> str:
    return data_file(path).read_text(encoding="utf-8")
