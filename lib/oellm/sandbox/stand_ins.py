"""What a sample reports through, in place of what it would share with its evaluator.

A list or dict of a multiprocessing.Manager would let a sample run code in the manager's process,
and a Value or Array would let it keep a lock that the evaluator waits for. A sample gets stand-ins
that send plain values through a pipe. The process that waits for the sample puts these into the
real ones.

This module uses the standard library alone, and runs on Python 3.9 and newer: the guard takes it
into containers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

# What a line raises that no stand-in has written.
NOT_SENT = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

_VALUE = "value"


class StandIn:
    """A stand-in for a list or dict of a manager."""

    def __init__(self, number: int, pipe: int) -> None:
        self._number, self._pipe = number, pipe

    def append(self, value: object) -> None:
        """Send a value for the end of the list."""
        self.send(None, value)

    def __setitem__(self, key: object, value: object) -> None:
        """Send a value for a key of the dict, or a place of the list."""
        self.send(key, value)

    def send(self, key: object, value: object) -> None:
        """Send a value, and where it belongs."""
        data = (json.dumps([self._number, key, value]) + "\n").encode()
        while data:
            data = data[os.write(self._pipe, data) :]


class SharedStandIn(StandIn):
    """A stand-in for a Value or an Array, with its content."""

    def __init__(self, number: int, pipe: int, real: Any) -> None:
        super().__init__(number, pipe)
        self._content: Any = list(real) if hasattr(real, "__len__") else real.value

    @property
    def value(self) -> Any:
        """The content of a Value."""
        return self._content

    @value.setter
    def value(self, value: Any) -> None:
        self._content = value
        self.send(_VALUE, value)

    def __len__(self) -> int:
        return len(self._content)

    def __getitem__(self, key: Any) -> Any:
        """Return elements of an Array."""
        return self._content[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Change an element of an Array, and send it."""
        self._content[key] = value
        self.send(key, value)

    def get_lock(self) -> SharedStandIn:
        """Return a context that waits for nothing: nobody else has this content."""
        return self

    def acquire(self) -> bool:
        """Return at once."""
        return True

    def release(self) -> None:
        """Return at once."""

    def __enter__(self) -> SharedStandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def replace_arguments(process: Any, pipe: int) -> list[Any]:
    """Replace what a process would share by stand-ins; return the real things."""
    real: list[Any] = []
    shared = tuple(_shared_types())

    def replace(value: Any) -> Any:
        if not isinstance(value, shared):
            return value
        real.append(value)
        number = len(real) - 1
        is_proxy = hasattr(value, "_callmethod")
        return StandIn(number, pipe) if is_proxy else SharedStandIn(number, pipe, value)

    process._args = tuple(map(replace, process._args))
    process._kwargs = {name: replace(value) for name, value in process._kwargs.items()}
    return real


def receive(line: bytes, real: list[Any]) -> None:
    """Put what a stand-in has sent into the real thing.

    A line that no stand-in has written raises one of NOT_SENT.
    """
    number, key, value = json.loads(line)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"no number of a stand-in: {number!r}")
    if key is None:
        real[number].append(value)
    elif key == _VALUE and hasattr(real[number], "get_lock"):
        real[number].value = value
    else:
        real[number][key] = value


def _shared_types() -> Iterator[type]:
    # Whoever has such a thing has loaded these modules, which are large for every Python's start.
    for module, name in (
        ("multiprocessing.managers", "BaseProxy"),
        ("multiprocessing.sharedctypes", "SynchronizedBase"),
    ):
        if module in sys.modules:
            yield getattr(sys.modules[module], name)
