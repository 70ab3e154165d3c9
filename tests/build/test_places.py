"""Where images and what builds unpack are put in directories that several people use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm.build import image_jobs
from oellm.images.image_record import TakenPlaceError, require_place


def test_only_its_owner_can_replace_an_image_in_a_sticky_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "one.sif"
    image.touch()
    tmp_path.chmod(0o1777)
    require_place(image)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(TakenPlaceError, match=r"one\.sif can be replaced by its owner only"):
        require_place(image)
    tmp_path.chmod(0o777)
    require_place(image)


def test_nobody_else_can_keep_a_build_from_unpacking(tmp_path: Path) -> None:
    with image_jobs._workspace(Path("one.sif"), tmp_path) as usual:
        pass
    usual.write_text("somebody else's")
    with image_jobs._workspace(Path("one.sif"), tmp_path) as other:
        assert other != usual
        assert other.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.iterdir()] == [usual.name]
