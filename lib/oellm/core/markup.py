"""How tables mark up text: what each layout escapes, and how it shows a score."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import NamedTuple

# What would end the line, move the cursor or clear the screen of whoever looks at a name.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# An underscore inside a word stays one.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After \\ and rules of a table these two would be read as arguments.
    "[": "{[}",
    "*": "{*}",
}
_LATEX_SPECIAL = re.compile(r"[&%$#_{}\\~^<>|\[*]|-(?=-)")


class Score(NamedTuple):
    """A number with what a table can say of it."""

    value: float
    # Shown behind it, where it is known.
    stderr: float | None = None
    is_best: bool = False
    is_partial: bool = False


class Markup(NamedTuple):
    """What a layout makes of text and scores."""

    escape: Callable[[str], str]
    # Formats of the best number, of an error behind a number, and what marks a partial one.
    best: str
    error: str
    partial: str

    def score(self, score: Score) -> str:
        """Return a score with four decimals."""
        text = f"{score.value:.4f}"
        text = self.best.format(text) if score.is_best else text
        text += self.partial if score.is_partial else ""
        return text if score.stderr is None else text + self.error.format(f"{score.stderr:.4f}")


def _printable(text: str) -> str:
    return _CONTROLS.sub("�", text)


def _one_line(text: str) -> str:
    return _printable(" ".join(text.splitlines()))


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", _one_line(text))


def _latex(text: str) -> str:
    # The one that has no entry is a hyphen before another: together they would be a dash.
    return _LATEX_SPECIAL.sub(lambda match: _LATEX.get(match[0], "-{}"), _one_line(text))


def _html(text: str) -> str:
    return html.escape(_printable(text))


MARKUPS = {
    "table": Markup(_printable, "{}", " ± {}", "*"),
    "markdown": Markup(_markdown, "**{}**", " ± {}", r"\*"),
    "latex": Markup(_latex, r"\textbf{{{}}}", r" $\pm$ {}", "*"),
    "html": Markup(_html, "<b>{}</b>", " ± {}", "*"),
}
