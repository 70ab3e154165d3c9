"""A second user on a shared base directory: works there, and can neither harm nor stall the first.

The users are numbers; nothing is left on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import BIN, DEMO_TASKS, PATIENCE_S, clean_environment, rows_of, run_in_time

GROUP = 64300
FIRST, SECOND = 64201, 64202
# Seconds after which an evaluation counts as stalled: it loads torch and indexes tasks.
EVALUATION_S = 240
HEADER = "model_path,task_path,n_shot,limit,include_path\n"

pytestmark = pytest.mark.slow


class User:
    """A user with a home, a umask, and the group that shares a directory."""

    def __init__(self, number: int, umask: int, base: Path) -> None:
        self.number = number
        self.base = base
        self.home = base.parent / f"home-{number}"
        self.home.mkdir(mode=0o755)
        os.chown(self.home, number, GROUP)
        self._umask = umask
        # The Python of these tests may lie in the home of root, so these users may read everything.
        self._become = ["setpriv", f"--reuid={number}", f"--regid={GROUP}", "--clear-groups"]
        self._become += [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
        names = {"USER": f"user{number}", "LOGNAME": f"user{number}", "HF_HUB_OFFLINE": "1"}
        settings = {"EVAL_BASE_DIR": base, "EVAL_OUTPUT_DIR": base / "out", "HF_HOME": base / "hf"}
        self.environ = clean_environment(
            self.home, names | {name: str(path) for name, path in settings.items()}
        )
        self.environ |= {"OELLM_CLUSTER": "local"}
        del self.environ["OELLM_CACHE_DIR"]

    def run(
        self, *command: object, stdin: str = "", patience_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        return run_in_time(
            *(*self._become, *command),
            env=self.environ,
            cwd=self.home,
            stdin=stdin,
            patience_s=patience_s,
            umask=self._umask,
        )

    def oellm(
        self, command: str, *arguments: object, stdin: str = "", patience_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        done = self.run(BIN / command, *arguments, stdin=stdin, patience_s=patience_s)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr}"
        return done

    def python(self, code: str, *arguments: object) -> str:
        """Run a few lines of Python; each line may fail."""
        lines = [f"try:\n    {line}\nexcept OSError: pass" for line in code.strip().splitlines()]
        done = self.run(sys.executable, "-c", "\n".join(["import os, sys", *lines]), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def render(self, manifest: str) -> Path:
        printed = self.oellm("oe-render", stdin=manifest).stdout
        return Path(json.loads(printed)["run_dir"])


@pytest.fixture
def base(tiny_model: Path) -> Iterator[Path]:
    """Return a directory that a group shares, with a model and tasks; pytest's own are private."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two other users")
    top = Path(tempfile.mkdtemp(prefix="oellm-users-")).resolve()
    top.chmod(0o755)
    base = top / "base"
    base.mkdir()
    shutil.copytree(tiny_model, base / "model")
    shutil.copytree(DEMO_TASKS, base / "tasks")
    os.chown(base, 0, GROUP)
    # The group may write, new files get the group, and each removes only what is its own.
    base.chmod(0o3775)
    yield base
    shutil.rmtree(top)


@pytest.fixture
def users(base: Path, umask: int) -> tuple[User, User]:
    first, second = (User(number, umask, base) for number in (FIRST, SECOND))
    try:
        assert second.python("print('it works')") == "it works\n"
    except (OSError, AssertionError) as error:
        pytest.skip(f"another user cannot run the Python of these tests: {error}")
    return first, second


PLANT = """
os.mkfifo(sys.argv[1] + '/results/ef253598e9c37ffe.json')
os.mkfifo(sys.argv[1] + '/results/' + sys.argv[3] + '.json')
os.mkfifo(sys.argv[1] + '/submit.lock')
os.mkfifo(sys.argv[1] + '/contents.json')
os.mkfifo(sys.argv[1] + '/x.json')
os.symlink(sys.argv[2], sys.argv[1] + '/slurm_logs/local_0.log')
os.mkdir(sys.argv[1] + '/progress')
os.mkdir(sys.argv[1] + '/failures')
os.mkdir(sys.argv[1] + '/stops')
os.symlink(sys.argv[2], sys.argv[1] + '/progress/.0.json.tmp')
os.mkfifo(sys.argv[1] + '/progress/0.json')
os.symlink('/dev/zero', sys.argv[1] + '/failures/' + sys.argv[3] + '.json')
os.symlink(sys.argv[2], sys.argv[1] + '/stops/0')
os.unlink(sys.argv[1] + '/oe-run-task.pyz')
os.rename(sys.argv[1] + '/jobs.csv', sys.argv[1] + '/jobs')
os.rename(sys.argv[1], sys.argv[1] + '-moved')
open(sys.argv[1] + '/run.json', 'a').write('x')
open(sys.argv[1] + '/submit_evals.sbatch', 'a').write('touch ' + sys.argv[2] + '.pwned')
"""
# Runs and caches of the second user's own, where the first one's commands look.
STALL = """
os.makedirs(sys.argv[1] + '/out/aaa/2099-01-01-00-00-00/results')
os.mkfifo(sys.argv[1] + '/out/aaa/2099-01-01-00-00-00/run.json')
os.mkfifo(sys.argv[1] + '/out/aaa/2099-01-01-00-00-00/jobs.csv')
os.mkfifo(sys.argv[1] + '/out/aaa/2099-01-01-00-00-00/results/0123456789abcdef.json')
os.makedirs(sys.argv[1] + '/out/bbb/2099-01-01-00-00-00/results')
os.symlink('/dev/zero', sys.argv[1] + '/out/bbb/2099-01-01-00-00-00/run.json')
os.symlink(sys.argv[2], sys.argv[1] + '/out/bbb/2099-01-01-00-00-00/results/0123456789abcdef.json')
os.symlink('/dev/zero', sys.argv[1] + '/out/bbb/2099-01-01-00-00-00/results/1123456789abcdef.json')
open(sys.argv[1] + '/out/bbb/2099-01-01-00-00-00/results/2.json', 'w').truncate(3 * 10**9)
os.makedirs(sys.argv[1] + '/hf/oellm/measured')
os.mkfifo(sys.argv[1] + '/hf/oellm/tasks-0.4.13-x.json')
os.mkfifo(sys.argv[1] + '/hf/token')
os.mkdir(sys.argv[1] + '/out')
os.symlink(sys.argv[2], sys.argv[1] + '/out/user64201')
"""


def snapshot(directory: Path) -> dict[str, tuple[int, float]]:
    """Return mode, and time of change, of all files below a directory."""
    found = {}
    for path in sorted([directory, *directory.rglob("*")]):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_mtime)
    return found


@pytest.mark.parametrize("umask", [0o002, 0o022], ids=["002", "022"])
def test_two_users_share_a_base_directory(users: tuple[User, User], base: Path) -> None:
    first, second = users
    victim = first.home / "victim"
    victim.write_text("mine")
    os.chown(victim, FIRST, GROUP)
    # Also what the group may write must stay as it is.
    victim.chmod(0o664)
    manifest = HEADER + "".join(
        f"{base}/model,{task},0,4,{base}/tasks\n" for task in ("oellm_choice", "oellm_prose")
    )
    run_dir = first.render(manifest)
    eval_id = rows_of((run_dir / "jobs.csv").read_text())[0]["eval_id"]
    before = snapshot(run_dir)
    second.python(PLANT, run_dir, victim, eval_id)
    second.python(STALL, base, victim)
    assert snapshot(run_dir) == before, "the second user has changed the first one's run"
    first.oellm("oe-submit", run_dir, patience_s=EVALUATION_S)
    again = first.render(manifest)
    for command in (
        ("oe-status", run_dir),
        ("oe-status", "--log=0", run_dir),
        ("oe-collect", run_dir),
        ("oe-submit", run_dir),
    ):
        first.oellm(*command)
    collected = first.run(BIN / "oe-collect", "--format=jsonl", base / "out")
    tasks = {json.loads(line)["task"] for line in collected.stdout.splitlines()}
    assert tasks == {"oellm_choice", "oellm_prose"}
    missing = first.oellm("oe-missing", f"--in={base}/out", stdin=manifest)
    assert rows_of(missing.stdout) == []
    # The second user evaluates the same rows beside the runs of the first.
    own = second.render(manifest)
    second.oellm("oe-submit", own, patience_s=EVALUATION_S)
    assert len(second.oellm("oe-collect", own).stdout.splitlines()) >= 3
    assert rows_of(second.oellm("oe-missing", run_dir).stdout) == []
    refused = second.run(BIN / "oe-submit", again)
    assert refused.returncode == 2
    assert f"belongs to the user {FIRST}" in refused.stderr
    assert victim.read_text() == "mine"
    assert not (first.home / "victim.pwned").exists()
    for path in (run_dir, *run_dir.rglob("*")):
        status = path.lstat()
        assert status.st_uid == FIRST
        assert not stat.S_IMODE(status.st_mode) & 0o022, path
