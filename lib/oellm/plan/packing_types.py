"""Rows of models, and the shards that they are packed into: what packing works on."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple


class ModelRows(NamedTuple):
    """The rows of one model, in seconds, and their positions by length, longest first."""

    load_s: float
    rows: Sequence[float]
    order: array[int]
    total_s: float

    @classmethod
    def of(cls, load_s: float, rows: Sequence[float]) -> ModelRows:
        """Return the model with this load and these rows, of which there is at least one."""
        order = array("i", sorted(range(len(rows)), key=rows.__getitem__, reverse=True))
        return cls(load_s, rows, order, math.fsum(rows))

    @property
    def whole_s(self) -> float:
        """Seconds of all its rows on one shard."""
        return self.load_s + self.total_s

    @property
    def longest_row_s(self) -> float:
        """Seconds of its longest row, without the load."""
        return self.rows[self.order[0]]


class Packing(NamedTuple):
    """The seconds of each shard, and for each model the shard of each row.

    A shard takes the seconds of its rows, and the load of each of its models once.
    """

    times: list[float]
    places: list[array[int]]

    @property
    def longest_s(self) -> float:
        """Seconds of the longest shard."""
        return max(self.times)


def longest_first(packing: Packing) -> Packing:
    """Return the packing with its shards numbered by their seconds, longest first."""
    times = packing.times
    order = sorted(range(len(times)), key=times.__getitem__, reverse=True)
    number_of = [0] * len(times)
    for number, shard in enumerate(order):
        number_of[shard] = number
    places = [array("i", map(number_of.__getitem__, place)) for place in packing.places]
    return Packing([times[shard] for shard in order], places)
