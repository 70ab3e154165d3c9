"""Child processes that do not end as they should delay their parent for a moment, not for ever."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from multiprocessing.connection import Connection

import pytest

from oellm.core.processes import children


def _hang_up(connection: Connection) -> None:
    connection.close()
    time.sleep(3600)


def test_a_child_that_hangs_up_and_goes_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_SOON_S", 0.2)
    child = children.fork(_hang_up, [])
    with pytest.raises(EOFError):
        child.connection.recv()
    assert child.wait() == "was killed by signal 9 SIGKILL"


@pytest.mark.parametrize("kind", ["fork", "program"])
def test_nobody_waits_for_ever_for_a_child_that_cannot_be_killed(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(children, "_SOON_S", 0.2)
    if kind == "fork":
        child = children.fork(_hang_up, [])
    else:
        ours, _ = multiprocessing.Pipe()
        child = children.Child(ours, subprocess.Popen(["sleep", "3600"]))
    kill = child._process.kill
    monkeypatch.setattr(child._process, "kill", lambda: None)
    assert child.kill() == "does not end although it was killed"
    kill()
    assert child._describe_end() == "was killed by signal 9 SIGKILL"
