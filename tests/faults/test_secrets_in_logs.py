"""Secrets of the submitting shell: no job of the local executor gets them, and no log keeps one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.processes import Run
from support.submitting import HEADER, fake_worker

pytestmark = pytest.mark.slow

TOKEN = "hf_" + "aB3" * 11
KEY = "sk-" + "aB3dE6gH9k" * 4
SECRETS = {
    "HF_TOKEN": TOKEN,
    "OPENAI_KEY": "opened-by-s3sam3-4711",
    "SSH_KEY": "-----BEGIN KEY-----\nAAAAB3NzaC1yc2EAAAADAQAB\n-----END KEY-----",
    "DATABASE_URL": "postgres://me:pw4711@db/x",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}
PARTS = ("aB3aB3", "opened-by", "AAAAB3Nza", "pw4711", "0123456789abcdef", KEY)


def test_no_secret_reaches_a_local_job_and_none_that_it_prints_its_log(
    run: Run, tmp_path: Path
) -> None:
    printed = tmp_path / "printed"
    # As a task does that prints the environment, or what it finds in a file.
    printed.write_text(f"{TOKEN} {SECRETS['OPENAI_KEY']} pw=me:pw4711@db {KEY}\nKEYBOARD=us MONKEY")
    fake_worker(tmp_path, f'env >"$3/environment.$5"; env >&2; cat {printed} >&2')
    settings = (f"venv={tmp_path}/venv", f"eval_base_dir={tmp_path}/base", "stage_dir=/tmp/$PLACE")
    rows = HEADER + "acme/a,mmlu,0\n"
    command = ("oe-render", "--cluster=slurm", *(f"--set={text}" for text in settings))
    directory = Path(json.loads(run(*command, stdin=rows).stdout)["run_dir"])
    env = SECRETS | {"PLACE": "here", "OTHER": "not for jobs", "LC_TIME": "C"}
    done = run("oe-submit", "--executor=local", directory, env=env, status=1)
    lines = (directory / "environment.0").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert names >= {"HOME", "PATH", "LC_TIME", "HF_HOME"}
    assert not names & {*SECRETS, "OTHER"}
    log = (directory / "slurm_logs" / "local_0.log").read_text()
    assert "[redacted] [redacted] pw=[redacted] [redacted]\nKEYBOARD=us MONKEY\n" in log
    for path in (directory / "environment.0", directory / "slurm_logs" / "local_0.log"):
        assert not [part for part in PARTS if part in path.read_text()], path
    assert not [part for part in PARTS if part in done.stderr]
