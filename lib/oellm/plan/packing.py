"""Packing: rows of models into shards, so that the longest shard is short."""

from __future__ import annotations

import bisect
import heapq
import math
from array import array
from collections.abc import Sequence

from oellm.plan.packing_bounds import guarantee, lower_bound
from oellm.plan.packing_refinement import improve, reunite
from oellm.plan.packing_types import ModelRows, Packing

# Lengths to fill shards up to, as multiples of the lower bound. With infinity every model stays
# whole; with 0 each row goes to where it ends first.
_FILLINGS = (math.inf, 1.0, 1.01, 1.03, 1.06, 1.1, 1.15, 1.2, 1.27, 1.33, 0.0)
# Multiple of the lower bound below which no better packing is looked for.
_GOOD_ENOUGH = 1.005
# With more rows, shards are even without refinement.
_REFINED_ROWS = 1000
# Exchanges of rows that refinement compares; a second has about a million.
_COMPARISONS = 50_000


def pack(models: Sequence[ModelRows], count: int, spare_loads: bool) -> Packing:
    """Return a packing into `count` shards, or into fewer where the others would be empty.

    Of several ways to fill shards the best is taken and refined. What holds then, with m shards:

    - The longest takes at most `guarantee(m)` times the shortest possible. That is not
      proved; a search through 50,000 small packings has found no exception.
    - A model has parts in two shards only where either of these, with both parts, would be longer
      than the longest shard is; and with spare_loads, longer than the lower bound by more than
      the model's load, or than `guarantee(m)` allows.
    """
    by_length = sorted(range(len(models)), key=lambda number: -models[number].whole_s)
    while True:
        bound = lower_bound(models, count)
        packing = _best(models, by_length, count, bound)
        most_s = guarantee(count) * bound
        worth_s = [min(bound + model.load_s * spare_loads, most_s) for model in models]
        reunite(models, packing, worth_s)
        used = len(set().union(*packing.places))
        if used == count:
            return packing
        count = used


def _best(
    models: Sequence[ModelRows], by_length: Sequence[int], count: int, bound: float
) -> Packing:
    """Return the packing whose longest shard is shortest; with equal ones, the first."""
    few = sum(len(model.rows) for model in models) <= _REFINED_ROWS
    best: Packing | None = None
    for filling in _FILLINGS:
        # Infinity times a bound of 0 would be no number.
        limit = filling * bound if bound else filling
        packing = _Filling(models, count, limit).packing(by_length)
        if few and packing.longest_s > _GOOD_ENOUGH * bound:
            improve(models, packing, _COMPARISONS // len(_FILLINGS))
        if best is None or packing.longest_s < best.longest_s:
            best = packing
        if best.longest_s <= _GOOD_ENOUGH * bound:
            break
    assert best is not None
    return best


class _Filling:
    """Shards that are filled up to a limit where that is possible, longest models first."""

    def __init__(self, models: Sequence[ModelRows], count: int, limit: float) -> None:
        self._models = models
        self._limit = limit
        # Time and number of each shard; the shortest is first.
        self._shards = [(0.0, shard) for shard in range(count)]
        self._places = [array("i") for _ in models]
        # Shards that a model which was cut is on already.
        self._loaded: dict[int, set[int]] = {}

    def packing(self, by_length: Sequence[int]) -> Packing:
        """Return the packing of all models, given by length."""
        # What is left of a model that was cut waits for its turn among the others.
        waiting = [
            (-self._models[number].whole_s, turn, number, self._models[number].order)
            for turn, number in enumerate(by_length)
        ]
        while waiting:
            minus_s, turn, number, left = heapq.heappop(waiting)
            placed_s, left = self._placed(number, left)
            if left:
                heapq.heappush(waiting, (minus_s + placed_s, turn, number, left))
        times = [0.0] * len(self._shards)
        for time_s, shard in self._shards:
            times[shard] = time_s
        return Packing(times, self._places)

    def _placed(self, number: int, left: array[int]) -> tuple[float, array[int]]:
        """Place rows of a model, at least one; return their seconds and the rows left then."""
        model, (time_s, shard) = self._models[number], self._shards[0]
        if not self._places[number]:
            self._places[number] = array("i", [shard]) * len(model.rows)
        loaded = self._loaded.get(number, ())
        loaded_s = time_s + (0.0 if shard in loaded else model.load_s)
        if loaded_s + model.rows[left[0]] > self._limit and len(model.rows) > 1:
            self._spread(number, left)
            return 0.0, array("i")
        taken, left = _fitting(model.rows, left, self._limit - loaded_s)
        for row in taken:
            self._places[number][row] = shard
        rows_s = math.fsum(map(model.rows.__getitem__, taken))
        heapq.heapreplace(self._shards, (loaded_s + rows_s, shard))
        if left:
            self._loaded.setdefault(number, set()).add(shard)
        return rows_s, left

    def _spread(self, number: int, left: array[int]) -> None:
        """Place each row where it ends first."""
        model, place = self._models[number], self._places[number]
        loaded = self._loaded.get(number, ())
        # Shards that have the model by now.
        mine: list[tuple[float, int]] = []
        for row in left:
            if mine and (not self._shards or mine[0][0] <= self._shards[0][0] + model.load_s):
                time_s, shard = heapq.heappop(mine)
            else:
                time_s, shard = heapq.heappop(self._shards)
                time_s += 0.0 if shard in loaded else model.load_s
            place[row] = shard
            heapq.heappush(mine, (time_s + model.rows[row], shard))
        for entry in mine:
            heapq.heappush(self._shards, entry)


def _fitting(rows: Sequence[float], left: array[int], room: float) -> tuple[array[int], array[int]]:
    """Return those of the rows, longest first, that fit one after another, and the others.

    The first always fits.
    """
    taken, kept = left[:1], array("i")
    room -= rows[left[0]]
    at = start = 1
    while at < len(left):
        if rows[left[at]] <= room:
            room -= rows[left[at]]
            at += 1
            continue
        taken += left[start:at]
        # All rows up to the next that fits are kept.
        start = bisect.bisect_left(left, -room, at + 1, key=lambda row: -rows[row])
        kept += left[at:start]
        at = start
    return taken + left[start:], kept
