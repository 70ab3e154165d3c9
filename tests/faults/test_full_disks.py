"""A disk that is full: named with its file; the worker stops in order, and no row fails of it."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from oellm.core import atomic
from oellm.runs.heartbeat import read_heartbeats
from oellm.worker import halts
from support.processes import BIN, DEMO_TASKS, Run


def _may_mount() -> bool:
    """Return whether a test may mount file systems of its own, which end with its process."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="only root may mount a small disk")
def test_a_worker_that_cannot_write_results_stops_and_its_rows_go_back(
    run: Run, tiny_model: Path
) -> None:
    rows = "model_path,task_path,n_shot,include_path\n"
    rows += "".join(f"{tiny_model},oellm_choice,{shots},{DEMO_TASKS}\n" for shots in range(6))
    record = run("oe-render", "--cluster=local", "--run_dir=run", stdin=rows).stdout
    directory = Path(json.loads(record)["run_dir"])
    results = directory / "results"
    small = f"mount -t tmpfs -o size=4k none {results}; exec "
    small += f"{BIN}/oe-run-task --run_dir={directory} --shard=0"
    done = run("unshare", "--mount", "bash", "-c", small, status=75)
    assert f"oe-run-task: stopped on {socket.gethostname()}: {results}/" in done.stderr
    assert f"No space left on device ({results} has " in done.stderr
    assert "0 rows evaluated, 0 already had results, 0 failed, 6 left" in done.stderr
    assert not (directory / "failures").exists()
    assert read_heartbeats(directory)[0].state.ended.startswith(f"stopped: {results}/")
    # With room again, the rows go on from the answers that were kept.
    done = run("oe-run-task", f"--run_dir={directory}", "--shard=0")
    assert "6 rows evaluated, 0 already had results, 0 failed\n" in done.stderr


@pytest.mark.skipif(not _may_mount(), reason="only root may mount a small disk")
@pytest.mark.parametrize("command", ["oe-render", "oe-submit"])
def test_a_command_names_the_file_that_a_full_disk_did_not_take(
    run: Run, tmp_path: Path, command: str
) -> None:
    rows = "model_path,task_path,n_shot\n" + "".join(f"acme/a,mmlu,{n}\n" for n in range(2000))
    small = tmp_path / "small"
    small.mkdir()
    if command == "oe-render":
        work = f"{BIN}/oe-render --cluster=local --run_dir={small}/run"
        size = "16k"
    else:
        record = run("oe-render", "--cluster=local", f"--run_dir={tmp_path}/run", stdin=rows)
        directory = json.loads(record.stdout)["run_dir"]
        work = f"cp -r {directory} {small}; cat /dev/zero >{small}/full 2>/dev/null; "
        work += f"{BIN}/oe-submit --executor=local {small}/run"
        size = "8m"
    script = f"mount -t tmpfs -o size={size} none {small}; {work}"
    done = run("unshare", "--mount", "bash", "-c", script, stdin=rows, status=3)
    assert done.stderr.startswith(f"{command}: {small}/run/")
    assert done.stderr.endswith("No space left on device\n")


def test_the_cause_of_an_error_may_be_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file"
    full = OSError(errno.EDQUOT, "Disk quota exceeded", str(path))
    wrapped = RuntimeError("the data set cannot be built")
    wrapped.__cause__ = full
    text = halts.describe_full_disk(wrapped)
    assert text.startswith(f"{path}: Disk quota exceeded ({tmp_path} has ")
    assert halts.describe_full_disk(PermissionError(errno.EACCES, "no", "x")) == ""
    assert halts.describe_full_disk(ValueError()) == ""


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for write in (atomic.write_file_with, atomic.stage):
        with pytest.raises(OSError, match="No space left") as error:
            write(tmp_path / "file", fail)
        assert str(error.value.filename).startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
