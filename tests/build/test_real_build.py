"""oe-build with a real Apptainer: a small image of a base that this machine's own files make."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.fake_apptainer import write_definition
from support.processes import Run
from support.skipping import require_program

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PROGRAMS = ("sh", "cat", "grep", "true")
# What the runtime expects in any image.
FOLDERS = ("dev", "etc", "opt", "proc", "root", "sys", "tmp", "usr", "var/tmp")
# Seen in the image by its test, and by us.
WORD = "blaubeere"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Make a base system of a few programs with their libraries."""
    require_program("apptainer", installer="install-cluster")
    tree = tmp_path / "base"
    for folder in (*FOLDERS, "bin"):
        (tree / folder).mkdir(parents=True)
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program
        shutil.copy(program, tree / "bin" / name)
        listing = subprocess.check_output(["ldd", program], text=True)
        for library in re.findall(r"/\S+", listing):
            target = tree / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    return tree


def test_a_real_image_is_built_tested_and_recorded(run: Run, tmp_path: Path, base: Path) -> None:
    (tmp_path / "word.txt").write_text(WORD)
    write_definition(
        tmp_path / "tiny.def",
        "cat /opt/word.txt >/word\n[ $(cat /word) = {{ WORD }} ]",
        test="grep -q {{ WORD }} /word",
        arguments={"BOOTSTRAP": "docker", "FROM": "nowhere", "WORD": "none"},
        files=["word.txt"],
        head="Bootstrap: {{ BOOTSTRAP }}\nFrom: {{ FROM }}",
    )
    words = ["oe-build", "--cluster=local", "--dir=images", "tiny.def"]
    words += ["--arg=BOOTSTRAP=localimage", "--arg=FROM=base", f"--arg=WORD={WORD}"]
    record = json.loads(run(*words).stdout)
    assert record["status"] == "built"
    assert record["labels"]["title"] == "tiny"
    inside = run("apptainer", "exec", record["path"], "cat", "/word").stdout
    assert inside == WORD
    assert json.loads(run(*words).stdout)["status"] == "up_to_date"
    # Its %test fails without the word, so there is no other image.
    bad = json.loads(run(*words[:-1], "--arg=WORD=erdbeere", status=1).stdout)
    assert bad["status"] == "failed"
    assert run("apptainer", "exec", record["path"], "cat", "/word").stdout == WORD
    (tmp_path / "base" / "new").touch()
    assert "base changed" in json.loads(run(*words, "--list").stdout)["reason"]
    # It has no Python, which all images of frameworks must have.
    verified = json.loads(run(*words[:4], "--verify", status=1).stdout)
    assert verified["reason"].startswith("python3 in the image fails")
