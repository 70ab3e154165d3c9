"""A disk that takes no output of a program: the worker names it and stops, and no row fails."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from support.toy_rows import ToyModel, evaluate, manifest


def _may_mount() -> bool:
    """Return whether a test may mount file systems of its own, which end with its process."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _may_mount(), reason="only root may mount a small disk")


# The disk has one page: the program's file fits, and our record beside it does not.
@pytest.mark.parametrize("is_full", [False, True], ids=["record", "program"])
def test_the_rows_go_back(model: ToyModel, tmp_path: Path, is_full: bool) -> None:
    stages = tmp_path / "out" / "stages"
    stages.mkdir(parents=True)
    fill = f"echo >{stages}/full; " if is_full else ""
    script = f'mount -t tmpfs -o size=4k none {stages}; {fill}exec "$@"'
    within = ("unshare", "--mount", "bash", "-c", script, "bash")
    rows = manifest((model, "two"), (model, "two_part"))
    place = ("--output_dir", tmp_path / "out")
    told = evaluate(rows, *place, home=tmp_path, status=75, within=within)
    assert "0 rows evaluated, 0 already had results, 0 failed, 2 left" in told
    assert f"stopped on {socket.gethostname()}: " in told
    assert "No space left on device" in told
    assert not (tmp_path / "out" / "failures").exists()
    assert "2 rows evaluated" in evaluate(rows, home=tmp_path)
