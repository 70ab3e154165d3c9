"""What packing works on: the rows of models, and the shards that they are packed into."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple


class ModelRows(NamedTuple):
    """The rows of one model, at least one.

    Attributes:
        load_s: Seconds to load the model.
        rows: Seconds of each row.
        order: Positions in `rows`, longest row first.
        total_s: Seconds of all rows, without the load.
    """

    load_s: float
    rows: Sequence[float]
    order: array[int]
    total_s: float

    @classmethod
    def of(cls, load_s: float, rows: Sequence[float]) -> ModelRows:
        """Return the model with this load and these rows."""
        order = array("i", sorted(range(len(rows)), key=rows.__getitem__, reverse=True))
        return cls(load_s=load_s, rows=rows, order=order, total_s=math.fsum(rows))

    @property
    def whole_s(self) -> float:
        """Seconds of all its rows on one shard, with the load."""
        return self.load_s + self.total_s

    @property
    def longest_row_s(self) -> float:
        """Seconds of its longest row, without the load."""
        return self.rows[self.order[0]]


class Packing(NamedTuple):
    """Where each row is, and how long each shard takes: its rows, and each of its models' loads.

    Attributes:
        times: Seconds of each shard.
        places: For each model, the shard of each row.
    """

    times: list[float]
    places: list[array[int]]

    @property
    def longest_s(self) -> float:
        """Seconds of the longest shard."""
        return max(self.times)


def number_longest_first(packing: Packing) -> Packing:
    """Return the packing with its shards numbered by their seconds, longest first."""
    times = packing.times
    order = sorted(range(len(times)), key=times.__getitem__, reverse=True)
    number_of = [0] * len(times)
    for number, shard in enumerate(order):
        number_of[shard] = number
    places = [array("i", map(number_of.__getitem__, place)) for place in packing.places]
    return Packing([times[shard] for shard in order], places)
