"""Threads that work for a process and do not keep it from ending."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from oellm.core.processes.daemon_threads import map_in_threads, start_thread


def test_results_are_in_the_order_of_the_items() -> None:
    def work(number: int) -> int:
        time.sleep(0.001 * (5 - number))
        return number * number

    assert map_in_threads(work, range(5), 3) == [0, 1, 4, 9, 16]
    assert map_in_threads(work, [], 3) == []


def test_items_are_worked_on_by_the_given_number_of_threads() -> None:
    together = threading.Barrier(3, timeout=10)
    assert map_in_threads(lambda _: together.wait() >= 0, range(6), 3) == [True] * 6


def test_an_exception_keeps_other_items_from_beginning() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"):
        map_in_threads(work, range(9), 1)
    assert begun == [0]


def test_a_thread_hands_over_its_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        start_thread(lambda: 1 // 0).result()


def test_a_process_ends_while_a_thread_works() -> None:
    code = (
        "import time; from oellm.core.processes.daemon_threads import start_thread; "
        "start_thread(lambda: time.sleep(60))"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
    assert time.monotonic() - started < 30
