"""Work in threads that do not keep the process from ending.

When Python ends, it waits for the threads of a ThreadPoolExecutor. These threads are daemons: an
interrupted process ends at once, although a download is in progress.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def start_thread(function: Callable[[], Result]) -> Future[Result]:
    """Call a function in a thread; the future gets its result or exception."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, daemon=True).start()
    return future


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> list[Result]:
    """Return the result for each item, in order, from `at_once` threads.

    After an exception no other item begins. It is raised when the items that have begun have ended.
    """
    waiting = deque(enumerate(items))
    results: dict[int, Result] = {}

    def work() -> None:
        while True:
            try:
                number, item = waiting.popleft()
            except IndexError:
                return
            try:
                results[number] = function(item)
            except BaseException:
                waiting.clear()
                raise

    threads = [start_thread(work) for _ in range(min(at_once, len(waiting)))]
    wait(threads)
    for thread in threads:
        thread.result()
    return [results[number] for number in range(len(results))]
