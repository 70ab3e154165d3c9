"""Pages in Markdown as text for a terminal: prose and tables fit its width, code stays as it is.

It knows what this project's pages are made of, and is no reader of Markdown in general.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
# Longer lines are hard to read. In columns.
_WIDEST = 100
_INDENT = "    "
_GAP = "  "
_ITEM = re.compile(r"( *(?:[-*]|\d+\.) +)(.*)", re.DOTALL)
# What begins something other than the paragraph or the item above it.
_BREAK = re.compile(r"#|```|\||<!--|[-*] |\d+\. ")
_CODE_SPAN = re.compile(r"`[^`]+`")
_EMPHASIS = re.compile(r"(?<![\w*])(\*\*?)(?=\S)(.+?)(?<=\S)\1(?![\w*])", re.DOTALL)


def lay_out(page: str, width: int, *, bold: bool = False) -> str:
    """Return a page as lines of at most `width` columns, apart from code and words that are longer.

    Headings are underlined, and also bold if the terminal shows that.
    """
    parts: list[str] = []
    for block, is_apart in split_blocks(page):
        parts += ["\n"] if parts and (is_apart or not _ITEM.match(block[0])) else []
        parts += [_shown(block, width, bold=bold), "\n"]
    return "".join(parts)


def split_blocks(page: str) -> Iterator[tuple[list[str], bool]]:
    """Give the lines of each block of a page, and whether an empty line comes before it.

    Blocks are headings, paragraphs, items, tables and code; comments are left out.
    """
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        end = _end(lines, at)
        if lines[at].strip() and not lines[at].startswith("<!--"):
            yield lines[at:end], at > 0 and not lines[at - 1].strip()
        at = end


def _end(lines: list[str], start: int) -> int:
    """Return where the block that begins at a line ends."""
    first, end = lines[start], start + 1
    if first.startswith("```"):
        while end < len(lines) and not lines[end].startswith("```"):
            end += 1
        return min(end + 1, len(lines))
    if _is_code(first):
        while end < len(lines) and (_is_code(lines[end]) or not lines[end].strip()):
            end += 1
        return end
    if first.startswith("|"):
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        return end
    if first.startswith(("#", "<!--")) or not first.strip():
        return end
    while end < len(lines) and lines[end].strip() and not _BREAK.match(lines[end]):
        end += 1
    return end


def _is_code(line: str) -> bool:
    return line.startswith("    ")


def _shown(block: list[str], width: int, *, bold: bool) -> str:
    first = block[0]
    if first.startswith("#"):
        return _heading(first, bold=bold)
    if first.startswith("```"):
        return _code(block[1:-1], width)
    if _is_code(first):
        return _code(block, width)
    if first.startswith("|"):
        return _table(block, width)
    text = "\n".join(block)
    mark = ""
    if item := _ITEM.match(text):
        mark, text = item[1], item[2]
    return _fill(_plain(text), width, first=mark, others=" " * len(mark))


def _fill(text: str, width: int, *, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        min(width, _WIDEST),
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _heading(line: str, *, bold: bool) -> str:
    marks, _, text = line.partition(" ")
    text = _plain(text)
    shown = f"{_BOLD}{text}{_PLAIN}" if bold else text
    rule = {"#": "=", "##": "-"}.get(marks)
    return f"{shown}\n{rule * len(text)}" if rule else shown


def _code(lines: list[str], width: int) -> str:
    text = textwrap.dedent("\n".join(lines)).strip("\n")
    longest = max(map(len, text.split("\n")))
    return textwrap.indent(text, _INDENT) if longest + len(_INDENT) <= width else text


def _table(block: list[str], width: int) -> str:
    head, *rows = [_cells(line) for line in block if not re.fullmatch(r"[|: -]+", line)]
    widths = _column_widths(list(zip(head, *rows, strict=True)), width)
    if not widths:
        return "\n\n".join(_entry(head, row, width) for row in rows)
    shown = [_row(row, widths) for row in rows]
    # Rows of several lines need something between them.
    between = "\n\n" if any("\n" in row for row in shown) else "\n"
    return (
        f"{_row(head, widths)}\n{_row(['-' * each for each in widths], widths)}\n"
        + between.join(shown)
    )


def _column_widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return how wide the columns of a table are; empty if not even their words fit."""
    natural = [max(map(len, column)) for column in columns]
    widths = [
        max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns
    ]
    texts = [sum(map(len, column)) for column in columns]
    room = width - len(_GAP) * (len(columns) - 1) - sum(widths)
    for _ in range(room):
        narrow = [number for number, each in enumerate(widths) if each < natural[number]]
        if not narrow:
            break
        # The column that would have the most lines.
        widths[max(narrow, key=lambda number: texts[number] / widths[number])] += 1
    return widths if room >= 0 else []


def _entry(head: list[str], row: list[str], width: int) -> str:
    """Return a row of a table that is too wide: its first cell, and the others below it."""
    lines = [_fill(row[0], width)]
    for name, cell in zip(head[1:], row[1:], strict=True):
        if cell:
            lines.append(_fill(f"{name}: {cell}", width, first=_INDENT, others=_INDENT + "  "))
    return "\n".join(lines)


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
    return [_plain(cell.strip().replace("\\|", "|")) for cell in cells]


def _row(cells: list[str], widths: list[int]) -> str:
    wrapped = [
        textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
        for cell, width in zip(cells, widths, strict=True)
    ]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = [cell[number] if number < len(cell) else "" for cell in wrapped]
        padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
        lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text without the marks of emphasis; code keeps its own marks and all between them."""
    codes = iter(_CODE_SPAN.findall(text))
    plain = _EMPHASIS.sub(r"\2", _CODE_SPAN.sub("\0", text))
    return re.sub("\0", lambda _: next(codes), plain)
