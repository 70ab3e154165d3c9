"""Suites as oe-manifest --list prints them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from oellm.tasks import suites as task_suites
from support.processes import ROOT, Run, clean_environment
from support.terminal import lines_on_terminal

# The environment of a user without suites of their own.
NO_FILE = {"XDG_CONFIG_HOME": "/nonexistent"}


SHIPPED = task_suites.load_suites([], NO_FILE)


PAGE = (ROOT / "docs" / "SUITES.md").read_text(encoding="utf-8")


EXAMPLE = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0]


def listed(run: Run, *arguments: str | Path, **options: Any) -> list[dict[str, str]]:
    printed = run("oe-manifest", "--list", *arguments, **options).stdout
    return list(csv.DictReader(io.StringIO(printed), strict=True))


def refusal(run: Run, *arguments: str | Path) -> str:
    refused = run("oe-manifest", "--list", *arguments, status=2)
    assert refused.stdout == ""
    return refused.stderr.removeprefix("oe-manifest: ").removesuffix("\n")


def shown_to_people(home: Path, *arguments: str, width: int = 100) -> list[str]:
    """Return the lines that `oe-manifest --list` prints on a terminal."""
    environment = clean_environment(home)
    return lines_on_terminal("oe-manifest", "--list", *arguments, env=environment, width=width)
