"""One setting of a proposed cluster entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Alternative(NamedTuple):
    """Another value that a setting could have, and what it means."""

    value: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.note})" if self.note else self.value


class ProposedSetting(NamedTuple):
    """A setting of a cluster with the value that is proposed.

    Attributes:
        key: The setting.
        value: The proposed value; None if there is none.
        origin: Where the value comes from, or why there is none.
        others: Other values that are possible.
        is_open: Whether somebody must fill it in.
    """

    key: str
    value: Any
    origin: str
    others: tuple[Alternative, ...] = ()
    is_open: bool = False


def alternatives(values: Iterable[str]) -> tuple[Alternative, ...]:
    """Return values that need no explanation."""
    return tuple(Alternative(value) for value in values)
