"""Markup of tables: what each layout escapes, and how it shows a score."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import NamedTuple

from oellm.core.display import one_line, printable

# Markdown leaves an underscore inside a word alone.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After \\ and after the rules of a table LaTeX would read these two as arguments.
    "[": "{[}",
    "*": "{*}",
}
_LATEX_SPECIAL = re.compile(r"[&%$#_{}\\~^<>|\[*]|-(?=-)")


class ScoreCell(NamedTuple):
    """A score as a cell of a table shows it.

    Attributes:
        stderr: shown behind the value, None if it is unknown or not asked for.
        is_best: whether the value is marked as the best of its column (or row).
        is_partial: whether the value is marked as that of a part of its group.
        footnotes: the letters of the table's footnotes on it, separated by commas.
    """

    value: float
    stderr: float | None = None
    is_best: bool = False
    is_partial: bool = False
    footnotes: str = ""


class Markup(NamedTuple):
    """How a layout writes text and scores.

    Attributes:
        escape: makes text of any string.
        best: format of the best number.
        error: format of a standard error behind a number.
        partial: mark behind a number from a part of a group.
        footnote: format of the letters of footnotes, behind all else.
    """

    escape: Callable[[str], str]
    best: str
    error: str
    partial: str
    footnote: str

    def score(self, cell: ScoreCell) -> str:
        """Return a score with four decimals and its marks."""
        text = f"{cell.value:.4f}"
        text = self.best.format(text) if cell.is_best else text
        text += self.partial if cell.is_partial else ""
        text += "" if cell.stderr is None else self.error.format(f"{cell.stderr:.4f}")
        return text + (self.footnote.format(cell.footnotes) if cell.footnotes else "")


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def _latex(text: str) -> str:
    # Only the hyphen before another has no entry in _LATEX: two hyphens would become a dash.
    return _LATEX_SPECIAL.sub(lambda match: _LATEX.get(match[0], "-{}"), one_line(text))


def _html(text: str) -> str:
    return html.escape(printable(text))


MARKUPS = {
    "table": Markup(one_line, best="{}", error=" ± {}", partial="*", footnote=" ({})"),
    "markdown": Markup(_markdown, best="**{}**", error=" ± {}", partial=r"\*", footnote=" ({})"),
    "latex": Markup(
        _latex,
        best=r"\textbf{{{}}}",
        error=r" $\pm$ {}",
        partial="*",
        footnote=r"\textsuperscript{{{}}}",
    ),
    "html": Markup(_html, best="<b>{}</b>", error=" ± {}", partial="*", footnote="<sup>{}</sup>"),
}
