"""oe-docs: show the documentation that is installed with oellm.

Usage:
  oe-docs [options] [--] [TOPIC]

Options:
  --search=WORDS  Print the passages that have all of these words, of TOPIC or
                  of all pages.
  --help          Print this text.
  --version       Print the version.

TOPIC is a page of the guide, such as results or schema, or a command, whose
oe- you may leave out. Without it, oe-docs prints the topics, a line each.
What a page calls `oellm docs NAME` is another page.

On a terminal, oe-docs fits the text to its width, and shows it in a pager:
$PAGER, by default less, which ends at once if all fits on the screen (the
variable LESS changes that). If PAGER is empty or cat, there is none. Pages are
in Markdown; oe-docs wraps their paragraphs and tables, and leaves code as it
is. Elsewhere, lines have 80 columns.

Output: text.

Exit status: 0 shown; 1 no passage has the words; 2 no such topic.

Examples:
  oellm docs
  oellm docs results
  oellm docs fetch | grep cache
  oellm docs --search 'exclude node'
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError


class _Screen(NamedTuple):
    """Where text goes.

    Attributes:
        width: In columns.
        is_terminal: Whether stdout is a terminal.
        bold: Whether it is one that can do more than print lines.
    """

    width: int
    is_terminal: bool
    bold: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-docs", doc=__doc__, command=_docs, argv=argv)


def _docs(arguments: cli.Arguments) -> int:
    from oellm.manuals.pager import show_in_pager

    is_terminal = sys.stdout.isatty()
    screen = _Screen(
        width=shutil.get_terminal_size().columns if is_terminal else 80,
        is_terminal=is_terminal,
        bold=is_terminal and os.environ.get("TERM", "dumb") != "dumb",
    )
    name, words = arguments["TOPIC"], arguments["--search"]
    if words is not None:
        text = _passages(words.split(), name, screen)
        if not text:
            cli.message(f"no passage has all of these words: {words}")
            return ExitStatus.FAILED
    else:
        text = _list(screen) if name is None else _page(name, screen)
    if not (screen.bold and show_in_pager(text, os.environ)):
        sys.stdout.write(text)
    return ExitStatus.DONE


def _list(screen: _Screen) -> str:
    from oellm.core.display import shorten_end
    from oellm.manuals.topics import list_topics

    topics = list_topics()
    column = max(len(topic.name) for topic in topics)
    lines = [f"{topic.name:{column}}  {topic.about}" for topic in topics]
    if screen.is_terminal:
        lines = [shorten_end(line, screen.width) for line in lines]
    return "\n".join([*lines, "", "oellm docs TOPIC shows a page.", ""])


def _page(name: str, screen: _Screen) -> str:
    from oellm.manuals.page_text import lay_out
    from oellm.manuals.topics import find_topic, list_topics, resolve_links

    topics = list_topics()
    topic = find_topic(name, topics)
    page = resolve_links(topic.read(), topic.path, topics)
    return lay_out(page, screen.width, bold=screen.bold)


def _passages(words: Sequence[str], name: str | None, screen: _Screen) -> str:
    from oellm.manuals.page_text import lay_out
    from oellm.manuals.search import find_passages
    from oellm.manuals.topics import find_topic, list_topics

    if not words:
        raise UsageError("--search: expected words, got none")
    topics = list_topics()
    searched = topics if name is None else [find_topic(name, topics)]
    parts = []
    for passage in find_passages(words, searched, topics):
        place = " · ".join(dict.fromkeys([passage.topic, passage.heading]))
        page = f"### {place}\n\n{passage.text}\n"
        parts.append(lay_out(page, screen.width, bold=screen.bold))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
