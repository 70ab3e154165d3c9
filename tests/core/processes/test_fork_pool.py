"""Work in child processes: how many, and what the end of one means."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from oellm.core.processes import fork_pool


def test_the_end_of_a_fork_is_the_end_of_one_item() -> None:
    def work(item: str) -> Any:
        if item == "leave":
            os._exit(3)
        if item == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"divide": lambda: 1 / 0, "much": lambda: b"x" * 10**6}.get(item, os.getpid)()

    answers = list(fork_pool.run(work, ["a", "leave", "b", "die", "divide", "much", "c"], 1))
    assert [item for item, _ in answers] == ["a", "leave", "b", "die", "divide", "much", "c"]
    of = dict(answers)
    assert str(of["leave"]) == "its process ended with status 3"
    assert "signal 9" in str(of["die"])
    assert of["divide"] == fork_pool.Crash(1)
    assert of["much"] == b"x" * 10**6
    # A fork that ended is replaced, and none is this process.
    assert len({of["a"], of["b"], of["c"], os.getpid()}) == 4


def test_so_many_forks_work_at_once() -> None:
    def work(item: int) -> tuple[int, float, float]:
        started = time.monotonic()
        time.sleep(0.4)
        return os.getpid(), started, time.monotonic()

    answers: dict[int, Any] = dict(fork_pool.run(work, range(1, 8), 3))
    assert sorted(answers) == list(range(1, 8))
    assert len({pid for pid, _, _ in answers.values()}) == 3
    spans = [(started, ended) for _, started, ended in answers.values()]
    at_once = [sum(begin <= start < end for begin, end in spans) for start, _ in spans]
    assert max(at_once) == 3
