"""A log that cannot be written, or that leads elsewhere, costs nothing but the log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.processes import BIN, Run
from support.submitting import HEADER, fake_worker, finish

pytestmark = pytest.mark.slow


def render(run: Run, tmp_path: Path, script: str) -> Path:
    fake_worker(tmp_path, script)
    settings = (f"venv={tmp_path}/venv", f"eval_base_dir={tmp_path}/base")
    command = ("oe-render", "--cluster=slurm", *(f"--set={text}" for text in settings))
    return Path(json.loads(run(*command, stdin=HEADER + "acme/a,mmlu,0\n").stdout)["run_dir"])


@pytest.mark.parametrize("kind", ["link", "pipe", "names"])
def test_a_log_that_somebody_else_made_is_left_alone(run: Run, tmp_path: Path, kind: str) -> None:
    directory = render(run, tmp_path, 'echo "oe-run-task: up" >&2; touch "$3/ran"')
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log = directory / "slurm_logs" / "local_0.log"
    if kind == "link":
        log.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(log)
    else:
        log.hardlink_to(victim)
    done = run("oe-submit", "--executor=local", directory, status=1)
    assert "oe-submit: shard 0: up\n" in done.stderr
    assert log.read_text() == "oe-run-task: up\n"
    assert not log.is_symlink()
    assert (directory / "ran").exists()
    assert victim.read_text() == "precious"


def test_a_full_disk_ends_the_log_and_not_the_worker(run: Run, tmp_path: Path) -> None:
    noise = 'for i in {1..3000}; do echo "noise $i" >&2; done'
    directory = render(run, tmp_path, f'{noise}; echo "oe-run-task: done" >&2; touch "$3/ran"')
    # The limit on the size of a file stands for the disk: run.json is below it, the log is not.
    limited = f"ulimit -f 16; exec {BIN}/oe-submit --executor=local {directory}"
    done = run("bash", "-c", limited, status=1)
    assert done.stderr.count("the log has gaps, the rows go on") == 1
    assert f"{directory}/slurm_logs/local_0.log: File too large" in done.stderr
    assert "oe-submit: shard 0: done\n" in done.stderr
    assert "exit status" not in done.stderr
    assert (directory / "ran").exists()
    # The next attempt goes on as usual.
    finish({"run_dir": str(directory)}, 0)
    run("oe-submit", "--executor=local", directory)
