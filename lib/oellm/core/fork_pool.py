"""Work in child processes, several at a time.

A child starts with all that its parent has imported, and a crash in it, or a call of sys.exit, is
the end of one piece of work and of nothing else.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crash(NamedTuple):
    """How a child ended that returned nothing: a negative number is a signal's."""

    exit_code: int

    def __str__(self) -> str:
        if self.exit_code < 0:
            return f"its process was ended by signal {-self.exit_code}"
        return f"its process ended with status {self.exit_code}"


def run(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[tuple[Item, Result | Crash]]:
    """Apply a function to items in forks of this process; yield each item and result as it ends.

    A fork takes one item after the other, so that what it has imported serves the next too; one
    that ends is replaced. Items and results are pickled. The function must not raise: what it
    raises counts as a crash with status 1.
    """
    context = multiprocessing.get_context("fork")
    waiting = iter(items)
    # By its connection: the item that a fork has now, and the fork.
    running: dict[Any, tuple[Item, Any]] = {}
    idle: list[tuple[Any, Any]] = []
    try:
        while True:
            while len(running) < at_once and (item := next(waiting, None)) is not None:
                connection, process = idle.pop() if idle else _forked(context, function)
                connection.send(item)
                running[connection] = item, process
            if not running:
                return
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for connection in ready:
                item, process = running.pop(connection)
                result = _received(connection)
                if result is None:
                    connection.close()
                    process.join()
                    yield item, Crash(process.exitcode or 0)
                    continue
                # Its next item first: whoever takes the result may take a while.
                if (following := next(waiting, None)) is None:
                    idle.append((connection, process))
                else:
                    connection.send(following)
                    running[connection] = following, process
                yield item, result[0]
    finally:
        for process in [*(each for _, each in running.values()), *(each for _, each in idle)]:
            process.terminate()


def _forked(context: Any, function: Callable[[Any], Any]) -> tuple[Any, Any]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _serve(function: Callable[[Any], Any], connection: Any) -> None:
    while True:
        connection.send((function(connection.recv()),))


def _received(connection: Any) -> tuple[Any] | None:
    try:
        result: tuple[Any] = connection.recv()
        return result
    except (EOFError, ConnectionError):
        return None
