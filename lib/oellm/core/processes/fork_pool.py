"""Work in child processes, several at a time.

A child starts with all that its parent has imported. A crash in it, or a call of sys.exit, costs
one item of work and nothing else; a concurrent.futures.ProcessPoolExecutor would be broken by it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crash(NamedTuple):
    """The end of a child that returned nothing."""

    # Negative: the number of a signal.
    exit_code: int

    def __str__(self) -> str:
        if self.exit_code < 0:
            return f"its process was killed by signal {-self.exit_code}"
        return f"its process ended with status {self.exit_code}"


def run(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[tuple[Item, Result | Crash]]:
    """Apply a function to items in `at_once` forks; yield each item and result as it ends.

    A fork takes one item after the other, so that its imports serve the next item too. A fork that
    ends is replaced. Items and results are pickled. The function must not raise: an exception
    counts as a crash with status 1.
    """
    context = multiprocessing.get_context("fork")
    waiting = iter(items)
    # The item that each fork has now, and the fork.
    running: dict[Connection, tuple[Item, BaseProcess]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while True:
            while len(running) < at_once and (item := next(waiting, None)) is not None:
                connection, process = idle.pop() if idle else _fork(context, function)
                connection.send(item)
                running[connection] = item, process
            if not running:
                return
            ready = multiprocessing.connection.wait(list(running))
            for connection in cast("list[Connection]", ready):
                item, process = running.pop(connection)
                result = _receive(connection)
                if result is None:
                    connection.close()
                    process.join()
                    yield item, Crash(process.exitcode or 0)
                    continue
                # The next item first, because the caller may take a while over the result.
                if (following := next(waiting, None)) is None:
                    idle.append((connection, process))
                else:
                    connection.send(following)
                    running[connection] = following, process
                yield item, result[0]
    finally:
        for process in [*(each for _, each in running.values()), *(each for _, each in idle)]:
            process.terminate()


def _fork(
    context: ForkContext, function: Callable[[Item], object]
) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _serve(function: Callable[[Item], object], connection: Connection) -> None:
    # A daemon ends with its parent, but multiprocessing lets it start no process of its own, as a
    # metric does that runs what a model has written. There is no public name for this in a process
    # that runs (Python 3.10 to 3.14; a test fails if the name changes).
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    while True:
        connection.send((function(connection.recv()),))


def _receive(connection: Connection) -> tuple[Any] | None:
    """Return what a fork sent, in a tuple; None if it has ended."""
    try:
        result: tuple[Any] = connection.recv()
        return result
    except (EOFError, ConnectionError):
        return None
