"""Work in forks: in order, whatever takes long, and with a clear error for a crash."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import time
from collections.abc import Iterator

import pytest

from oellm.core.processes.process_map import map_in_processes
from oellm.errors import OellmError


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def slow_if_even(number: int) -> tuple[int, int]:
    time.sleep(0.05 * (number % 2 == 0))
    return number, os.getpid()


def test_results_come_in_the_order_of_the_items_from_several_processes() -> None:
    numbers, processes = zip(*map_in_processes(slow_if_even, range(12)), strict=True)
    assert numbers == tuple(range(12))
    assert os.getpid() not in processes
    assert len(set(processes)) == 2


def test_a_single_item_needs_no_fork() -> None:
    assert list(map_in_processes(slow_if_even, [1])) == [(1, os.getpid())]
    assert list(map_in_processes(slow_if_even, [])) == []


def test_only_a_few_items_are_begun_before_they_are_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = map_in_processes(slow_if_even, items())
    assert [next(results)[0] for _ in range(10)] == list(range(10))
    assert len(taken) <= 10 + 4
    results.close()  # type: ignore[attr-defined]


def state(_: int) -> tuple[bool, object]:
    return gc.isenabled(), signal.getsignal(signal.SIGINT)


def test_forks_leave_the_interrupt_to_their_parent() -> None:
    assert set(map_in_processes(state, range(3))) == {(False, signal.SIG_IGN)}
    assert state(0) == (True, signal.default_int_handler)


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(f"no {number}")


def test_a_crash_and_an_error_end_it() -> None:
    with pytest.raises(OellmError, match="a process that reads results has crashed: "):
        list(map_in_processes(die, range(5)))
    with pytest.raises(ValueError, match="no 0"):
        list(map_in_processes(fail, range(5)))
