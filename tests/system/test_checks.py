"""The checks of a commit, and the version that is released."""

from __future__ import annotations

import re

import yaml

from oellm import __version__
from support.processes import ROOT


def test_make_check_and_pre_commit_run_the_same_tools() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^check: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    assert [line.strip("\t@").split()[0] for line in recipe.splitlines()] == [
        entry.removeprefix(".venv/bin/").split()[0] for entry in hooks
    ]


def test_the_changelog_has_a_section_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## ([0-9.]+) – \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert versions[0] == __version__
    parts = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))
    assert parts <= {"Added", "Changed", "Fixed", "Removed"}
