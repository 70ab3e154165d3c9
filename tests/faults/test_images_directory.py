"""What somebody else has put where oe-build expects its own files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.fake_apptainer import FakeApptainer, write_definition
from support.processes import BIN, clean_environment, run_in_time


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


# By the name of a file in the directory of images.
PLANTED: dict[str, Callable[[Path], object]] = {
    "one.sif.json": os.mkfifo,
    "one.sif.log": link_to("precious"),
    ".one.sif.lock": os.mkfifo,
    f".one.sif.{platform.node()}-1-abcdef01.tmp": link_to("precious"),
    "two.sif": os.mkfifo,
    "two.sif.json": link_to("/dev/zero"),
    "three.sif.json": lambda path: path.write_bytes(b"[" * 2_000_000),
    "three.sif": lambda path: path.write_text("no image"),
}


@pytest.mark.parametrize("is_linked", [False, True])
def test_nothing_that_others_have_planted_is_waited_for_written_or_believed(
    tmp_path: Path, is_linked: bool
) -> None:
    images, scratch = tmp_path / "images", tmp_path / "scratch"
    for directory in (images, scratch, tmp_path / "home"):
        directory.mkdir()
    (images / "precious").write_text("precious")
    for name, plant in PLANTED.items():
        plant(images / name)
    if is_linked:
        # Where what is unpacked would be.
        name = hashlib.sha256(os.fsencode(images / "one.sif")).hexdigest()[:16]
        host = re.sub(r"\W", "_", platform.node())
        (scratch / f"oe-build-{os.geteuid()}-{host}-{name}").symlink_to(tmp_path / "home")
    apptainer = FakeApptainer(tmp_path / "bin")
    names = [str(write_definition(tmp_path / f"{each}.def")) for each in ("one", "two", "three")]
    env = clean_environment(tmp_path / "home", apptainer.environment | {"TMPDIR": str(scratch)})
    command = [BIN / "oe-build", "--cluster=local", f"--dir={images}", "--way=root"]
    listed = run_in_time(*command, "--list", *names, env=env, cwd=tmp_path)
    states = {line["name"]: line for line in map(json.loads, listed.stdout.splitlines())}
    assert states["one"]["status"] == "missing"
    assert states["two"]["reason"] == states["three"]["reason"] == "not recorded"
    built = run_in_time(*command, *names, env=env, cwd=tmp_path)
    statuses = {line["name"]: line["status"] for line in map(json.loads, built.stdout.splitlines())}
    assert set(statuses.values()) == {"built"}
    assert (images / "precious").read_text() == "precious"
    # A planted link is not followed: the build makes another directory.
    assert not list((tmp_path / "home").glob("*"))
    assert all((images / f"{name}.sif").is_file() for name in statuses)
