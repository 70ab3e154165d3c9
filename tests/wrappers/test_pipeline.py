"""A pipeline of real processes: what passes from one to the next, and what signals do."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from oellm.wrappers.pipeline import shell_line

# The runner of tests may have been started with Ctrl-C ignored, which processes inherit.
RUNNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from oellm.wrappers.pipeline import run_pipeline
log = lambda text: print(text, file=sys.stderr, flush=True)
stages = [["sh", "-c", script] for script in sys.argv[1:]]
sys.exit(run_pipeline(stages, log=log, given=b"in", on_output=lambda s, i, o: log(f"{i} {o}")))
"""


def start(*scripts: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, *scripts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_each_command_gets_the_output_of_the_one_before() -> None:
    output, messages = start("cat; printf 1", "cat; printf 2", "cat").communicate()
    assert output == "in12"
    assert "b'in' b'in1'\n" in messages
    assert "b'in1' b'in12'\n" in messages


def test_after_a_failure_nothing_runs() -> None:
    process = start("echo half; exit 7", "echo ran")
    output, messages = process.communicate()
    assert (process.returncode, output) == (7, "")
    assert "stopped, sh ended with status 7" in messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_command_end_in_its_own_way(number: signal.Signals) -> None:
    trap = f"trap 'sleep 1; echo kept; exit 75' {number.name[3:]}"
    process = start("cat", f"{trap}; echo ready; while :; do sleep 0.1; done")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (75, "kept\n")


@pytest.mark.parametrize("scripts", [("kill -KILL $$", "cat"), ("cat", "kill -KILL $$")])
def test_a_command_that_a_signal_ends_gives_the_status_of_a_shell(scripts: tuple[str, ...]) -> None:
    process = start(*scripts)
    _, messages = process.communicate()
    assert process.returncode == 137
    assert messages.endswith("stopped, sh was ended by SIGKILL\n")


def test_the_shell_line_does_the_same() -> None:
    line = shell_line([["cat"], ["sed", "s/a/b c/"], ["tr", "c", "'"]], "/dev/stdin")
    assert line == "cat < /dev/stdin |\n  sed 's/a/b c/' |\n  tr c ''\"'\"''"
    done = subprocess.run(["sh", "-c", line], check=True, input="a", capture_output=True, text=True)
    assert done.stdout == "b '"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_is_ignored_stays_so_in_the_command(number: signal.Signals) -> None:
    # As `nohup` does it.
    command = f"trap '' {number.name[3:]}; exec \"$@\""
    script = f"kill -{number.name[3:]} $$; echo alive"
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", RUNNER, script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")
