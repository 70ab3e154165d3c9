"""Where images and what builds unpack are put in directories that several people use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from oellm.build import image_jobs
from oellm.build.image_lock import ForeignLockError, image_lock
from oellm.images.image_record import TakenPlaceError, require_place
from support.fake_apptainer import FakeApptainer, write_definition
from support.processes import BIN, Run, clean_environment


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


def test_a_lock_that_cannot_be_opened_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    message = r"/\.one\.sif\.lock: another user makes the image, or was stopped"
    with pytest.raises(ForeignLockError, match=message), image_lock(tmp_path / "one.sif", int):
        pass


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can give a directory away, and setpriv gives up the right to write there",
)
def test_an_image_of_a_directory_of_others_is_up_to_date(run: Run, tmp_path: Path) -> None:
    apptainer = FakeApptainer(tmp_path / "bin")
    one = write_definition(tmp_path / "one.def")
    words = ("oe-build", "--cluster=local", "--way=root", "--dir=images", "one.def")
    run(*words, env=apptainer.environment)
    os.chown(tmp_path / "images", 4321, -1)

    def build(status: str) -> str:
        env = clean_environment(tmp_path / "home", apptainer.environment)
        done = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", BIN / words[0], *words[1:]],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert json.loads(done.stdout)["status"] == status, done.stderr
        return done.stderr

    build("up_to_date")
    write_definition(one, "true")
    assert f"{tmp_path / 'images'} cannot be written: use another --dir" in build("failed")
