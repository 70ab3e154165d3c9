"""contents.json: what a run has accepted; what is damaged is unknown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm.models.identity import FileState
from oellm.models.model_digests import KnownDirectory
from oellm.runs.accepted_contents import (
    AcceptedContents,
    AcceptedTask,
    read_accepted,
    write_accepted,
)

NOTHING = AcceptedContents({}, {}, kept=frozenset(), directories={})
ALL = AcceptedContents(
    models={'["/m"]': "0123456789abcdef"},
    tasks={'["lm_eval","","t"]': AcceptedTask("1" * 16, "1.0", "0.4.13")},
    kept=frozenset({"model fedcba9876543210"}),
    directories={"/m": KnownDirectory("0" * 8, "1" * 8, {"config.json": FileState(1, 2, 3)})},
)


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_accepted(tmp_path) == NOTHING
    write_accepted(tmp_path, ALL)
    assert read_accepted(tmp_path) == ALL
    before = (tmp_path / "contents.json").stat()
    write_accepted(tmp_path, ALL)
    assert (tmp_path / "contents.json").stat() == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"models": [], "tasks": 3, "kept": {}, "directories": null}',
        '{"tasks": {"t": []}, "directories": {"/m": {"files": {"a": 3}}}, "kept": [[]]}',
        "[" * 100_000,
    ],
)
def test_damaged_parts_are_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "contents.json").write_text(content)
    found = read_accepted(tmp_path)
    assert found._replace(kept=frozenset()) == NOTHING


def test_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "contents.json")
    assert read_accepted(tmp_path) == NOTHING
