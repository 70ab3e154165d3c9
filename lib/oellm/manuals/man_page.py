"""The manuals of commands as pages of man: text becomes roff, which groff and mandoc format.

The build of the package uses this module alone, so it imports nothing else of the library.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Iterator

_WIDTH = 79
# Columns at which text that stays as it is begins, if it has room there.
_INDENT = 11
# In the order of a page. What has no such heading describes the command.
_SECTIONS = ("Usage", "", "Options", "Input", "Output", "Exit status", "Examples", "See also")
_TITLES = {"Usage": "SYNOPSIS", "": "DESCRIPTION"}
_HEADING = re.compile(rf"({'|'.join(filter(None, _SECTIONS))}|Example):[ \n]")
# What roff, or a terminal with UTF-8, would make another character of.
_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
# Without these, man spaces words out and hyphenates them. A synopsis ends both.
_RAGGED = ".ad l\n.nh\n"
_PROSE = re.compile(r"`(?P<quoted>[^`]+)`|(?<![\w-])(?P<bold>--[a-z][\w-]*)")
_SYNTAX = re.compile(r"(?P<bold>--[a-z][\w-]*)|(?P<italic>\b[A-Z][A-Z_]*\b)")


def make_man_page(manual: str, version: str, commands: Collection[str] = ()) -> str:
    """Return the page of a command in roff: `manual` is its docstring, `version` the package's.

    SEE ALSO names those of `commands` that the manual names. Raises ValueError for a manual that
    does not begin with `NAME: what it does.`, or has no usage or options.
    """
    first, *paragraphs = manual.strip("\n").split("\n\n")
    name, colon, about = first.partition(": ")
    sections = _sort(paragraphs)
    if not (colon and sections["Usage"] and sections["Options"]):
        raise ValueError(f"the manual lacks name, usage or options: {first!r}")
    others = sorted({"oe-docs", "oellm", *_mentioned(manual, commands)} - {name})
    sections["See also"].append(", ".join(f"`{other}`(1)" for other in others))
    parts = [
        f'.TH {_escape(name.upper())} 1 "" "oellm {_escape(version)}"\n{_RAGGED}',
        f".SH NAME\n{_escape(name)} \\- {_styled(about.rstrip('.'), _PROSE)}\n",
    ]
    for heading in filter(sections.__getitem__, _SECTIONS):
        parts.append(f".SH {_TITLES.get(heading, heading.upper())}\n")
        parts += _content(name, heading, sections[heading])
    return "".join(parts)


def _sort(paragraphs: Iterable[str]) -> dict[str, list[str]]:
    """Return the paragraphs of each section, as they stand after its heading."""
    sections: dict[str, list[str]] = {heading: [] for heading in _SECTIONS}
    current = ""
    for paragraph in paragraphs:
        text = paragraph
        if found := _HEADING.match(paragraph):
            current = "Examples" if found[1] == "Example" else found[1]
            text = paragraph[found.end() :]
        elif not paragraph.startswith(" "):
            # The continuation of a section is indented.
            current = ""
        sections[current].append(text)
    return sections


def _mentioned(manual: str, commands: Iterable[str]) -> Iterator[str]:
    for command in commands:
        if re.search(rf"(?<![\w/.-]){re.escape(command)}(?![\w-])", manual):
            yield command


def _content(name: str, heading: str, paragraphs: list[str]) -> Iterator[str]:
    if heading == "Usage":
        for usage in f" {' '.join(paragraphs[0].split())}".split(f" {name} ")[1:]:
            # .SY indents what does not fit into the first line.
            yield f".SY {_escape(name)}\n{_line(_styled(usage, _SYNTAX))}\n.YS\n"
        yield _RAGGED
    elif heading == "Options":
        for option in re.split(r"^  (?=--)", paragraphs[0], flags=re.MULTILINE)[1:]:
            form, description = option.split(maxsplit=1)
            yield f".TP\n{_styled(form, _SYNTAX)}\n{_text(description)}\n"
    else:
        for number, paragraph in enumerate(paragraphs):
            if number:
                yield ".PP\n"
            if heading == "Examples" or _is_arranged(paragraph, is_indented=bool(heading)):
                yield _verbatim(paragraph)
            else:
                yield f"{_text(paragraph)}\n"


def _is_arranged(paragraph: str, *, is_indented: bool) -> bool:
    """Say whether the lines of a paragraph stay as they are: commands, or a table."""
    if is_indented:
        return bool(re.search(r"\S {2,}\S", paragraph))
    return all(line.startswith(" ") for line in paragraph.splitlines())


def _text(paragraph: str) -> str:
    return _line(_styled(" ".join(paragraph.split()), _PROSE))


def _verbatim(text: str) -> str:
    lines = textwrap.dedent(text.strip("\n")).splitlines()
    # The page's own indentation would push long lines over the edge.
    indent = min(_INDENT, _WIDTH - max(map(len, lines)))
    shown = "\n".join(_line(_escape(line)) for line in lines)
    return f".in {indent}n\n.nf\n{shown}\n.fi\n.in\n"


def _styled(text: str, pattern: re.Pattern[str]) -> str:
    """Return text in roff, with what a pattern finds in bold or italics."""
    parts, end = [], 0
    for found in pattern.finditer(text):
        font = "I" if found.lastgroup == "italic" else "B"
        word = found[str(found.lastgroup)]
        parts += [_escape(text[end : found.start()]), rf"\f{font}{_escape(word)}\fR"]
        end = found.end()
    return "".join(parts) + _escape(text[end:])


def _escape(text: str) -> str:
    return "".join(
        _ESCAPES.get(letter, letter) if letter.isascii() else f"\\[u{ord(letter):04X}]"
        for letter in text
    )


def _line(text: str) -> str:
    """Return a line of roff that is no request, whatever it begins with."""
    return rf"\&{text}" if text.startswith(".") else text
