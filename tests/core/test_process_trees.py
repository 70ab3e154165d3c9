"""Programs end with all that they have started, and with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oellm.core.processes.process_trees import ProcessTree, run_program
from support.process_tree import is_alive

# Starts a child and a child in a session of its own, which writes both numbers into a file. None
# of them ends at SIGTERM.
CODE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "a").write(f"{os.getpid()} {os.getppid()}\\n")
        time.sleep(600)
    time.sleep(600)
time.sleep(600 if sys.argv[2] == "stay" else 1)
sys.exit(7)
"""
PATIENCE = 60.0


def tree(action: Callable[[], int]) -> tuple[ProcessTree, int]:
    """Start an action; return it and the end of the pipe with what it prints."""
    reader, writer = os.pipe()
    started = ProcessTree(action, writer)
    os.close(writer)
    return started, reader


def program(*argv: str, directory: Path = Path("/")) -> Callable[[], int]:
    return lambda: run_program(argv, dict(os.environ), str(directory))


def below(path: Path) -> list[int]:
    """Return the processes that a program has started, once they are there."""
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(text) for text in path.read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    started, reader = tree(program(sys.executable, "-c", CODE, str(tmp_path / "pids"), "leave"))
    pids = below(tmp_path / "pids")
    assert started.wait() == 7
    assert not any(map(is_alive, pids))
    # Nobody has the pipe open any more.
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_a_program_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    started, reader = tree(program(sys.executable, "-c", CODE, str(tmp_path / "pids"), "stay"))
    pids = below(tmp_path / "pids")
    started.terminate()
    assert all(map(is_alive, pids))
    started.kill()
    assert not any(map(is_alive, pids))
    os.close(reader)


def test_a_program_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import os, sys\n"
        "from oellm.core.processes.process_trees import ProcessTree, run_program\n"
        "argv = [sys.executable, '-c', *sys.argv[1:]]\n"
        "ProcessTree(lambda: run_program(argv, dict(os.environ), '/'), 2).wait()\n"
    )
    arguments = [CODE, str(tmp_path / "pids"), "stay"]
    process = subprocess.Popen([sys.executable, "-c", starter, *arguments])
    pids = below(tmp_path / "pids")
    process.kill()
    process.wait()
    wait_until_gone(pids)


@pytest.mark.parametrize(
    ("argv", "status", "printed"),
    [
        (("sh", "-c", "echo here; echo there >&2; exit 5"), 5, b"here\nthere\n"),
        (("sh", "-c", "kill -9 $$"), -signal.SIGKILL, b""),
        (("sh", "-c", "cat; pwd"), 0, b"/\n"),
        # A writer that nobody reads from ends, as in a shell.
        (("sh", "-c", "(while :; do echo; done) | head -n 1 >/dev/null"), 0, b""),
        (("no-such-program",), 127, b"no-such-program: No such file or directory\n"),
        (("/etc/passwd",), 126, b"/etc/passwd: Permission denied\n"),
    ],
)
def test_how_a_program_ends(argv: tuple[str, ...], status: int, printed: bytes) -> None:
    started, reader = tree(program(*argv))
    assert started.wait() == status
    assert os.read(reader, 1000) == printed
    os.close(reader)


def test_an_action_that_raises_says_so() -> None:
    def fail() -> int:
        raise LookupError("nothing there")

    started, reader = tree(fail)
    assert started.wait() == 1
    assert os.read(reader, 10_000).endswith(b"LookupError: nothing there\n")
    os.close(reader)
