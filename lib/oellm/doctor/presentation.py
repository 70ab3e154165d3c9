"""Findings as records for programs, and as lines for people."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from oellm.core import display, schema, tables
from oellm.core.atomic import naming_file
from oellm.doctor.diagnoses import Diagnosis

# The widths of the first two columns, and what goes before a remedy.
_STATUS, _CHECK = 8, 29
_ARROW = "→ "
_LEAST_WIDTH = 60


def write_findings(findings: Iterable[Diagnosis], layout: str, stream: TextIO) -> None:
    """Write findings, each as soon as it is there: a table for people, or records."""
    findings = (finding.cleaned() for finding in findings)
    if layout == "table":
        width = shutil.get_terminal_size().columns if stream.isatty() else 120
        out = display.guard_terminal(stream)
        for finding in findings:
            out.write("".join(f"{line}\n" for line in _describe(finding, width)))
            _flush(stream)
        return
    columns = list(schema.table("check"))
    rows = (finding.values(columns) for finding in _flushing(findings, stream))
    tables.write_rows(rows, columns, layout=layout, stream=stream)


def _flushing(findings: Iterable[Diagnosis], stream: TextIO) -> Iterator[Diagnosis]:
    """Yield findings; what was written of those before reaches the reader first."""
    for finding in findings:
        yield finding
        _flush(stream)


def _flush(stream: TextIO) -> None:
    with naming_file(Path("stdout")):
        stream.flush()


def _describe(finding: Diagnosis, width: int) -> Iterator[str]:
    """Yield the lines of a finding: its text, and what to do about it, beside its name."""
    left = f"{finding.verdict:{_STATUS}}{finding.check:{_CHECK}}"
    if len(left) > _STATUS + _CHECK:
        left += " "
    room = max(_LEAST_WIDTH, width) - _STATUS - _CHECK
    lines = textwrap.wrap(finding.text, room, break_on_hyphens=False) or [""]
    first = lines[0]
    if len(left) + len(first) > width:
        yield left.rstrip()
    else:
        yield left + lines.pop(0)
    indent = " " * (_STATUS + _CHECK)
    yield from (indent + line for line in lines)
    if finding.remedy:
        told = textwrap.wrap(finding.remedy, room - len(_ARROW), break_on_hyphens=False)
        for number, line in enumerate(told):
            yield indent + (_ARROW if not number else "  ") + line
