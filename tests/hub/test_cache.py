"""The cache of the hub on disk: which content counts as that of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm.hub.cache import CachedCommit, HubFile, free_space
from support.hub import File
from support.hub_content import write_files


def test_content_of_another_file_is_not_taken(tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", "a.json", "b.json")
    files = {name: File.read(source / name) for name in ("a.json", "b.json")}
    a, b = (HubFile(name, file.size, file.etag) for name, file in files.items())
    cached = CachedCommit(str(tmp_path / "hub"), "acme/a", "c0")
    blobs = tmp_path / "hub/models--acme--a/blobs"
    blobs.mkdir(parents=True)
    Path(cached.directory).mkdir(parents=True)
    (blobs / a.digest).write_bytes((source / "a.json").read_bytes())
    for file in (a, b):
        os.symlink(f"../../blobs/{a.digest}", cached.path_of(file))
    assert cached.holds(a)
    assert not cached.holds(b)
    assert not cached.verify_or_remove(b)
    assert not os.path.lexists(cached.path_of(b))
    assert cached.verify_or_remove(a)
    # Right, but under a name that says something else.
    (blobs / "wrong").write_bytes((source / "b.json").read_bytes())
    os.symlink("../../blobs/wrong", cached.path_of(b))
    assert cached.verify_or_remove(b)
    assert cached.holds(b)
    assert sorted(path.name for path in blobs.iterdir()) == sorted([a.digest, b.digest])


def test_a_relative_directory_that_is_not_there_has_the_room_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_space("a/b") > 0
