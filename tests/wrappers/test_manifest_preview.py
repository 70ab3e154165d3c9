"""The preview of oellm build-csv."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oellm.manifest.rows import Row
from oellm.wrappers.manifest_choices import ManifestChoices
from oellm.wrappers.manifest_preview import ManifestPreview, make_preview


def test_the_preview_fits_a_terminal_and_counts_what_it_leaves_out() -> None:
    rows = [
        Row(
            {
                "model_path": f"/scratch/project/models/{'deep/' * 20}iter_{number}",
                "task_path": f"multilingual_{'very_' * 10}long_{number % 2}",
                "n_shot": "25",
                "eval_suite": "bigcode_eval",
            }
        )
        for number in range(30)
    ]
    lines = list(ManifestPreview(b"", rows=rows, base=None, is_whole=False).lines())
    assert max(map(len, lines)) <= 79
    assert lines[0] == "30 models × 2 tasks: 30 rows, without broken models"
    assert lines[-1] == "and 24 more"
    # With a menu of eight lines.
    assert len(lines) <= 16


def test_a_killed_oe_manifest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "oe-manifest"
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o755)
    # Commands are looked for beside this one first.
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "oellm")])
    told: list[str] = []
    choices = ManifestChoices(models=("acme/tiny",), suites=("belebele",))
    assert make_preview(choices, None, log=told.append) is None
    assert told == ["oe-manifest was ended by SIGKILL"]
