"""Work in forks of this process, as many as there are CPUs, with the results in order."""

from __future__ import annotations

import collections
import gc
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from oellm.core.processes.children import signal_at_parents_end
from oellm.errors import OellmError

Item = TypeVar("Item")
Result = TypeVar("Result")

# More processes do not speed up one file system, and a login node serves other people, too.
_MOST = 8

# In a fork: what it calls for each item.
_function: Callable[[Any], Any]


def map_in_processes(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the result of each item, in the order of the items; items and results are pickled.

    A single item, or a single CPU, needs no fork. Only a few results for each fork wait here,
    however slowly the caller takes them. Raises what the function raises, and OellmError if a
    fork crashes.
    """
    remaining = iter(items)
    first = list(itertools.islice(remaining, 2))
    remaining = itertools.chain(first, remaining)
    size = min(_MOST, len(os.sched_getaffinity(0)))
    if len(first) < 2 or size == 1:
        yield from map(function, remaining)
        return
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(size, context, initializer=_begin_fork, initargs=(function,)) as pool:
        begun = collections.deque(
            pool.submit(_call, n) for n in itertools.islice(remaining, 2 * size)
        )
        try:
            while begun:
                result: Result = begun.popleft().result()
                begun.extend(pool.submit(_call, item) for item in itertools.islice(remaining, 1))
                yield result
        except BrokenProcessPool as error:
            raise OellmError(f"a process that reads results has crashed: {error}") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_fork(function: Callable[[Any], Any]) -> None:
    global _function  # noqa: PLW0603
    _function = function
    signal_at_parents_end(signal.SIGTERM)
    # Ctrl-C reaches all processes of a terminal; the parent ends its forks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the forks parse has no cycles, and looking for some takes a tenth of the time.
    gc.disable()


def _call(item: Any) -> Any:
    return _function(item)
