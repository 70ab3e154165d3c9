"""Manuals as pages of man, which the real man shows without a warning."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from oellm.manuals.man_page import make_man_page
from oellm.manuals.usage import Manual
from support import man
from support.processes import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'^([\w-]+) = "(\w+):main"$', PROJECT, re.MULTILINE))

MANUAL = r"""toy-run: run toys — also 'odd' ones.

Usage:
  toy-run [options] [--toy=NAME]... [--] [FILE]

Options:
  --toy=NAME  A toy of C:\toys, such as .hidden
              or 'x'; ~ and ^ too.
  --wait[=WHAT]
              Wait.

.profile is read. A `--toy` whose name begins with a hyphen, -x, is `no toy`
of ours.

  .first   a \fBline\fR
  'second  "line"

Output: toys (see toy-list);
  one per line.

Exit status: 0 done.

Example:
  toy-run --toy='a b' | sed 's/\.//' | tr ab \\n | LC_ALL=C sort -u | head -n 12345
"""


def render(manual: str, directory: Path) -> str:
    page = directory / "page.1"
    page.write_text(make_man_page(manual, "1.2", [*SCRIPTS, "toy-list", "toy-run"]), "ascii")
    return man.show("-l", page)


def section(page: str, title: str) -> list[str]:
    """Return the lines of a section, each without the blanks around it."""
    (text,) = re.findall(rf"^{title}\n(.*?)(?=^\S|\Z)", page, re.MULTILINE | re.DOTALL)
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_each_part_of_a_manual_has_its_section_and_no_character_is_lost(tmp_path: Path) -> None:
    page = render(MANUAL, tmp_path)
    assert section(page, "NAME") == ["toy-run - run toys — also 'odd' ones"]
    assert section(page, "SYNOPSIS") == ["toy-run [options] [--toy=NAME]... [--] [FILE]"]
    assert section(page, "DESCRIPTION") == [
        ".profile is read. A --toy whose name begins with a hyphen, -x, is no",
        "toy of ours.",
        r".first   a \fBline\fR",
        '\'second  "line"',
    ]
    assert section(page, "OPTIONS") == [
        "--toy=NAME",
        r"A toy of C:\toys, such as .hidden or 'x'; ~ and ^ too.",
        "--wait[=WHAT]",
        "Wait.",
    ]
    assert section(page, "OUTPUT") == ["toys (see toy-list); one per line."]
    assert section(page, "EXIT STATUS") == ["0 done."]
    assert section(page, "EXAMPLES") == [MANUAL.strip().splitlines()[-1].strip()]
    assert section(page, "SEE ALSO") == ["oe-docs(1), oellm(1), toy-list(1)"]


def test_a_manual_without_options_is_no_page() -> None:
    with pytest.raises(ValueError, match="toy-run"):
        make_man_page("toy-run: run.\n\nUsage:\n  toy-run", "1.2")


@pytest.mark.parametrize("command", SCRIPTS)
def test_the_page_of_a_command_has_its_options_and_examples_unbroken(
    command: str, tmp_path: Path
) -> None:
    manual = importlib.import_module(SCRIPTS[command]).__doc__
    page = render(manual, tmp_path)
    assert max(map(len, page.splitlines())) <= 80
    for title in ("NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "EXAMPLES"):
        assert section(page, title)
    tags = [line.split()[0] for line in section(page, "OPTIONS") if line.startswith("--")]
    assert {tag.partition("=")[0].rstrip("[") for tag in tags} >= set(Manual(manual).forms)
    examples = manual[re.search(r"\n\nExamples?:\n", manual).end() :].partition("\n\n")[0]
    assert section(page, "EXAMPLES") == [line.strip() for line in examples.strip().splitlines()]
    # No word is broken: what a reader copies or searches is there.
    assert "‐" not in page
