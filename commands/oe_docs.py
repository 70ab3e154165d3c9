"""oe-docs: show the documentation that is installed with oellm.

Usage:
  oe-docs [options] [--] [TOPIC]

Options:
  --help     Print this text.
  --version  Print the version.

TOPIC is a page of the guide, such as results or schema, or a command, whose
oe- you may leave out. Without it, oe-docs prints the topics, a line each.
What a page calls `oellm docs NAME` is another page.

On a terminal the text has its width and goes through a pager: $PAGER, by
default less, which ends at once if all fits on the screen (the variable LESS
changes that). If PAGER is empty or cat, there is none. Pages are in Markdown;
oe-docs wraps their paragraphs and tables, and leaves code as it is. Elsewhere,
lines have 80 columns.

Output: text.

Exit status: 0 shown; 2 no such topic.

Examples:
  oellm docs
  oellm docs results
  oellm docs fetch | grep cache
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from oellm import cli
from oellm.errors import ExitStatus


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
    name = arguments["TOPIC"]
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


if __name__ == "__main__":
    sys.exit(main())
