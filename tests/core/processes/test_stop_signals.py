"""Which signals stop the work, and that later ones do not change its exit status."""

from __future__ import annotations

import subprocess
import sys

import pytest

WORK = """
import os, signal, sys
from oellm.core.processes.stop_signals import StopSignals
number = signal.Signals[sys.argv[1]]
with StopSignals() as signals:
    if sys.argv[2] == "during":
        os.kill(os.getpid(), number)
    if sys.argv[3] == "ignore":
        signals.ignore()
    if sys.argv[2] == "at the end":
        os.kill(os.getpid(), number)
os.kill(os.getpid(), number)
sys.exit(7)
"""


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("when", ["during", "at the end", "afterwards"])
def test_the_exit_status_stays(name: str, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", WORK, name, when, "ignore"], check=False)
    assert done.returncode == 7


def test_signals_do_again_what_they_did_if_the_work_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", WORK, "SIGTERM", "never", "go on"], check=False)
    assert done.returncode == -15


def test_nohup_outlasts_its_terminal() -> None:
    noted = WORK.replace("if sys.argv[3]", "assert signals.first is None\n    if sys.argv[3]")
    work = [sys.executable, "-c", noted, "SIGHUP", "during", "go on"]
    done = subprocess.run(["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *work], check=False)
    assert done.returncode == 7
