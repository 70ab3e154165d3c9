"""The batch script: it passes signals to the worker, waits for it, and requeues its job.

A stub stands in for the worker, and for scontrol; tests/real_slurm/ has the real ones.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import Run, clean_environment

# It starts many processes, some of which wait.
pytestmark = pytest.mark.slow

HEADER = "model_path,task_path,n_shot\n"

# Notes each signal in the file `told`, and ends with STATUS after SIGNALS of them. A job of the
# local executor gets neither variable: it ends with 75 at once.
WORKER = f"""#!{sys.executable}
import os, signal, sys
names = ("USR1", "TERM", "INT", "HUP")
signals = [signal.Signals["SIG" + name] for name in names]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
with open("told", "w", buffering=1) as told:
    print("ready", os.getpid(), *sys.argv[1:], file=told)
    for _ in range(int(os.environ.get("SIGNALS", "0"))):
        # Not for ever: if a test fails, nobody stops this process.
        number = signal.sigtimedwait(signals, 60).si_signo
        print(signal.Signals(number).name, file=told)
sys.exit(int(os.environ.get("STATUS", "75")))
"""

SCONTROL = """#!/bin/bash
echo "$@" >>"$SCONTROL_CALLS"
# Slurm ends the job in the meantime, with all its processes.
kill -TERM $PPID $$
exit "$SCONTROL_STATUS"
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a run of two shards; its worker is the stub."""
    base = tmp_path_factory.mktemp("batch script")
    executable(base / "venv" / "bin" / "python", WORKER)
    executable(base / "bin" / "scontrol", SCONTROL)
    settings = [f"--set={text}" for text in (f"eval_base_dir={base}", "shard_time=0")]
    settings.append(f"--set=venv={base}/venv")
    done = subprocess.run(
        ["oe-render", "--cluster=slurm", *settings],
        input=HEADER + "acme/a,mmlu,0\nacme/b,mmlu,0\n",
        capture_output=True,
        text=True,
        env=clean_environment(base),
        check=True,
    )
    return Path(json.loads(done.stdout)["run_dir"])


class Job:
    """The script running as an array element."""

    def __init__(self, run_dir: Path, signals: int, status: int, **environment: str) -> None:
        self._told = run_dir / "told"
        self._calls = run_dir / "scontrol.calls"
        self._log = run_dir / "log"
        for path in (self._told, self._calls):
            path.unlink(missing_ok=True)
        base = run_dir.parent.parent
        given = clean_environment(base)
        slurm = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "1"}
        scontrol = {"SCONTROL_CALLS": str(self._calls), "SCONTROL_STATUS": "0"}
        worker = {"SIGNALS": str(signals), "STATUS": str(status)}
        given |= slurm | scontrol | worker | environment | {"PATH": f"{base}/bin:{given['PATH']}"}
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                # nohup would make HUP ignored, and Bash cannot trap an ignored signal.
                ["env", "--default-signal=HUP", "bash", run_dir / "submit_evals.sbatch"],
                env={name: value for name, value in given.items() if value},
                cwd=run_dir,
                stderr=log,
            )
        self.worker = int(self._line(0).split()[1])

    def tell(self, *names: str) -> None:
        """Send signals to the script, each after the worker has received the one before."""
        for position, name in enumerate(names, 1):
            self._process.send_signal(getattr(signal, f"SIG{name}"))
            assert self._line(position) == f"SIG{name}"

    def end(self) -> tuple[int, str, str]:
        """Return the exit status of the script, how scontrol was called, and the log."""
        status = self._process.wait(timeout=20)
        calls = self._calls.read_text() if self._calls.exists() else ""
        return status, calls, self._log.read_text()

    def _line(self, number: int) -> str:
        deadline = time.monotonic() + 20
        while True:
            text = self._told.read_text() if self._told.exists() else ""
            # A line without its end is not complete yet.
            lines = text.split("\n")[:-1]
            if len(lines) > number:
                return lines[number]
            assert time.monotonic() < deadline, f"{text}{self._log.read_text()}"
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("signals", "status", "requeued"),
    [
        (["USR1"], 75, True),
        (["USR1", "USR1", "USR1"], 75, True),
        (["INT", "HUP", "USR1"], 75, True),
        # The worker has finished, or it is stuck.
        (["USR1"], 0, False),
        (["USR1"], 1, False),
        # The job was cancelled, perhaps while it was stopping.
        (["TERM"], 75, False),
        (["TERM", "TERM"], 75, False),
        (["USR1", "TERM"], 75, False),
        (["INT"], 130, False),
        (["HUP"], 130, False),
        ([], 75, False),
        ([], 2, False),
        ([], 0, False),
    ],
)
def test_only_a_job_that_ran_out_of_time_requeues_itself(
    run_dir: Path, signals: list[str], status: int, requeued: bool
) -> None:
    job = Job(run_dir, len(signals), status)
    job.tell(*signals)
    ended, calls, log = job.end()
    assert ended == status
    assert calls == ("requeue 4711_1\n" if requeued else "")
    expected = "stopped before the time limit: job 4711_1 requeues itself\n"
    assert log == (expected if requeued else "")


def test_a_worker_that_is_killed_ends_the_script_with_its_status(run_dir: Path) -> None:
    job = Job(run_dir, 2, 75)
    job.tell("USR1")
    subprocess.run(["kill", "-KILL", str(job.worker)], check=True)
    assert job.end()[:2] == (128 + signal.SIGKILL, "")


def test_a_job_that_cannot_be_requeued_says_what_goes_on(run_dir: Path) -> None:
    job = Job(run_dir, 1, 75, SCONTROL_STATUS="1")
    job.tell("USR1")
    status, calls, log = job.end()
    assert (status, calls) == (75, "requeue 4711_1\n")
    assert log.endswith(f"not requeued: oe-submit {run_dir} continues it\n")


def test_nothing_is_requeued_without_slurm(run_dir: Path) -> None:
    job = Job(run_dir, 1, 75, SLURM_ARRAY_JOB_ID="")
    job.tell("USR1")
    assert job.end() == (75, "", "")


def test_the_local_executor_says_how_a_stopped_shard_goes_on(run: Run, run_dir: Path) -> None:
    environment = {"SLURM_ARRAY_JOB_ID": "99"}
    done = run("oe-submit", "--executor=local", run_dir, env=environment, status=1)
    for shard in (0, 1):
        assert f"oe-submit: shard {shard}: stopped: run oe-submit {run_dir} again\n" in done.stderr


@pytest.mark.parametrize(
    ("settings", "directive"),
    [
        ([], "B:USR1@300"),
        (["time_limit=24:00:00"], "B:USR1@300"),
        (["time_limit=UNLIMITED"], "B:USR1@300"),
        (["time_limit=00:20:00", "stop_before=600"], "B:USR1@600"),
        (["stop_before=0"], ""),
        (["time_limit=00:04:00", "stop_before=0"], ""),
        (["time_limit=1-00", "stop_before=60000"], "B:USR1@43200"),
        (["time_limit=1-0:30"], "B:USR1@300"),
        (["time_limit=00:04:00"], "B:USR1@120"),
        (["time_limit=4"], "B:USR1@120"),
        (["time_limit=2:30"], "B:USR1@75"),
        (["time_limit=0-0:0:30"], "B:USR1@15"),
    ],
)
def test_a_job_gets_its_signal_in_time_but_never_in_its_first_half(
    run: Run, settings: list[str], directive: str
) -> None:
    given = [f"--set={setting}" for setting in ("venv=/v", "eval_base_dir=/b", *settings)]
    done = run(
        "oe-render", "--dry_run", "--cluster=slurm", *given, stdin=HEADER + "acme/a,mmlu,0\n"
    )
    lines = done.stdout.splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH --signal")]
    assert directives == ([f"#SBATCH --signal={directive}"] if directive else [])
    assert "#SBATCH --requeue" in lines
    wanted = dict(setting.split("=") for setting in settings).get("stop_before", "300")
    is_shortened = bool(directive) and not directive.endswith(f"@{wanted}")
    half = f" s before their end, not {wanted} s: that is half"
    assert (half in done.stderr) == is_shortened


def test_the_worker_knows_when_its_job_gets_its_signal(run: Run) -> None:
    given = ["--cluster=local", "--set=time_limit=00:04:00"]
    record = json.loads(run("oe-render", *given, stdin=HEADER + "acme/a,mmlu,0\n").stdout)
    assert record["cluster"]["stop_before"] == 120


def test_seconds_below_zero_are_no_setting(run: Run) -> None:
    done = run("oe-detect", "--cluster=slurm", "--set=stop_before=-1", status=2)
    assert done.stderr == "oe-detect: --set stop_before: stop_before: expected at least 0, got -1\n"
