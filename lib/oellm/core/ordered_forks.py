"""Work in forks of this process, as many as there are CPUs, with the results in order."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from oellm.core import fork_pool
from oellm.errors import OellmError

Item = TypeVar("Item")
Result = TypeVar("Result")

# More read the same file system no faster.
_MOST = 8


def mapped(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the result of each item, in the order of the items; the function must not raise.

    A single item, or a single CPU, needs no fork. Forks are as far ahead as their number, so that
    what waits here stays small however slowly results are taken.
    """
    waiting = iter(items)
    first = list(itertools.islice(waiting, 2))
    at_once = min(_MOST, len(os.sched_getaffinity(0)))
    if len(first) < 2 or at_once == 1:
        yield from map(function, itertools.chain(first, waiting))
        return
    numbered = enumerate(itertools.chain(first, waiting))
    done: dict[int, Result] = {}
    due = 0
    for (number, _), result in fork_pool.run(_Numbered(function), numbered, at_once):
        if isinstance(result, fork_pool.Crash):
            raise OellmError(f"a process that read results failed: {result}")
        done[number] = result
        while due in done:
            yield done.pop(due)
            due += 1


class _Numbered(Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result]) -> None:
        self._function = function

    def __call__(self, numbered: tuple[int, Item]) -> Result:
        # Ctrl-C reaches all processes of a terminal; this one ends with its parent.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # What was parsed has no cycles, and looking for some takes a tenth of the time.
        gc.disable()
        return self._function(numbered[1])
