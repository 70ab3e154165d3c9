"""Packing: rows of models into shards, so that the longest shard is short."""

from __future__ import annotations

import bisect
import heapq
import math
from array import array
from collections.abc import Iterator, Sequence

from oellm.plan.packing.bounds import guarantee, lower_bound
from oellm.plan.packing.model_rows import ModelRows, Packing

# Lengths to fill shards up to, as multiples of the lower bound. Infinity keeps every model whole;
# with 0 each row goes to the shard where it ends first.
_FILLINGS = (math.inf, 1.0, 1.01, 1.03, 1.06, 1.1, 1.15, 1.2, 1.27, 1.33, 0.0)
# Multiple of the lower bound below which a packing is good enough to stop.
_GOOD_ENOUGH = 1.005
# With more rows than this, shards are even without placing all rows by length, for which each row
# takes some 200 bytes.
_FEW_ROWS = 10_000


def pack_rows(models: Sequence[ModelRows], count: int, spare_loads: bool) -> Packing:
    """Return a packing into `count` shards, or into fewer if the others would be empty.

    It fills shards in several ways, takes the best, and then reunites models that were split for
    too little. What holds then, with m shards:

    - The longest takes at most `guarantee(m)` times the shortest possible. With loads that is not
      proved; property tests look for exceptions.
    - A model has parts in two shards only if either of these, with both parts, would be longer
      than the longest shard is; and with spare_loads, longer than the lower bound by more than
      the model's load, or than `guarantee(m)` allows.
    """
    by_length = sorted(range(len(models)), key=lambda number: -models[number].whole_s)
    while True:
        bound = lower_bound(models, count)
        packing = _fill_best(models, by_length, count=count, bound=bound)
        most_s = guarantee(count) * bound
        worth_s = [min(bound + model.load_s * spare_loads, most_s) for model in models]
        reunite(models, packing, worth_s)
        used = len(set().union(*packing.places))
        if used == count:
            return packing
        count = used


def _fill_best(
    models: Sequence[ModelRows], by_length: Sequence[int], count: int, bound: float
) -> Packing:
    """Return the packing whose longest shard is shortest; the first of equal ones."""
    best: Packing | None = None
    for packing in _pack_in_all_ways(models, by_length, count=count, bound=bound):
        if best is None or packing.longest_s < best.longest_s:
            best = packing
        if best.longest_s <= _GOOD_ENOUGH * bound:
            break
    assert best is not None
    return best


def _pack_in_all_ways(
    models: Sequence[ModelRows], by_length: Sequence[int], count: int, bound: float
) -> Iterator[Packing]:
    for filling in _FILLINGS:
        # Infinity times a bound of 0 would be no number.
        limit = filling * bound if bound else filling
        yield _Filling(models, count, limit).fill(by_length)
    if sum(len(model.rows) for model in models) <= _FEW_ROWS:
        yield _place_by_length(models, count)


def _place_by_length(models: Sequence[ModelRows], count: int) -> Packing:
    """Place the rows of all models, longest first, each on the shard where it ends first.

    The longest row of a model counts with the load. Without loads, this is what Graham's guarantee
    was proved for.
    """
    rows = sorted(
        (-row_s - (model.load_s if at == model.order[0] else 0.0), number, at)
        for number, model in enumerate(models)
        for at, row_s in enumerate(model.rows)
    )
    times = [0.0] * count
    places = [array("i", [0]) * len(model.rows) for model in models]
    every = [(0.0, shard) for shard in range(count)]
    # Of each model, a heap of its shards.
    loaded: list[list[tuple[float, int]]] = [[] for _ in models]
    for _, number, at in rows:
        mine, load_s = loaded[number], models[number].load_s
        shard = _shortest(every, times)
        if mine and times[_shortest(mine, times)] <= times[shard] + load_s:
            shard = mine[0][1]
        else:
            heapq.heappush(mine, (times[shard], shard))
            times[shard] += load_s
        times[shard] += models[number].rows[at]
        places[number][at] = shard
    return Packing(times, places)


def _shortest(shards: list[tuple[float, int]], times: Sequence[float]) -> int:
    """Return the shortest shard of a heap, whose times may be older, and so shorter, than now."""
    while shards[0][0] != times[shards[0][1]]:
        shard = shards[0][1]
        heapq.heapreplace(shards, (times[shard], shard))
    return shards[0][1]


class _Filling:
    """Shards that are filled up to a limit if possible, longest models first."""

    def __init__(self, models: Sequence[ModelRows], count: int, limit: float) -> None:
        self._models = models
        self._limit = limit
        # A heap of the seconds and the number of each shard; the shortest comes first.
        self._shards = [(0.0, shard) for shard in range(count)]
        self._places = [array("i") for _ in models]
        # The shards that already have a part of a model, for models that were split.
        self._loaded: dict[int, set[int]] = {}

    def fill(self, by_length: Sequence[int]) -> Packing:
        """Return the packing of all models, given by length."""
        # The rest of a model that was split waits for its turn among the others.
        waiting = [
            (-self._models[number].whole_s, turn, number, self._models[number].order)
            for turn, number in enumerate(by_length)
        ]
        while waiting:
            minus_s, turn, number, left = heapq.heappop(waiting)
            placed_s, left = self._place(number, left)
            if left:
                heapq.heappush(waiting, (minus_s + placed_s, turn, number, left))
        times = [0.0] * len(self._shards)
        for time_s, shard in self._shards:
            times[shard] = time_s
        return Packing(times, self._places)

    def _place(self, number: int, left: array[int]) -> tuple[float, array[int]]:
        """Place rows of a model, at least one; return their seconds and the rows that are left."""
        model, (time_s, shard) = self._models[number], self._shards[0]
        if not self._places[number]:
            self._places[number] = array("i", [shard]) * len(model.rows)
        loaded = self._loaded.get(number, ())
        loaded_s = time_s + (0.0 if shard in loaded else model.load_s)
        if loaded_s + model.rows[left[0]] > self._limit and len(model.rows) > 1:
            self._spread(number, left)
            return 0.0, array("i")
        taken, left = _take_fitting(model.rows, left, self._limit - loaded_s)
        for row in taken:
            self._places[number][row] = shard
        rows_s = math.fsum(map(model.rows.__getitem__, taken))
        heapq.heapreplace(self._shards, (loaded_s + rows_s, shard))
        if left:
            self._loaded.setdefault(number, set()).add(shard)
        return rows_s, left

    def _spread(self, number: int, left: array[int]) -> None:
        """Place each row on the shard where it ends first."""
        model, place = self._models[number], self._places[number]
        loaded = self._loaded.get(number, ())
        # A heap of the shards that have loaded the model here.
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


def _take_fitting(
    rows: Sequence[float], left: array[int], room: float
) -> tuple[array[int], array[int]]:
    """Return the rows, longest first, that fit one after another, and the others.

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
        # Skip to the next row that fits.
        start = bisect.bisect_left(left, -room, at + 1, key=lambda row: -rows[row])
        kept += left[at:start]
        at = start
    return taken + left[start:], kept


def reunite(models: Sequence[ModelRows], packing: Packing, worth_s: Sequence[float]) -> None:
    """Put parts of a model together, in place, if their split is not worth the load.

    It is not if one shard with both parts takes no longer than the longest shard, or than worth_s
    of the model. A shard may be left empty.
    """
    times = packing.times
    parts_of = {
        number: _sum_parts(model, place)
        for number, (model, place) in enumerate(zip(models, packing.places, strict=True))
        if place.count(place[0]) < len(place)
    }
    longest_s = packing.longest_s
    has_changed = True
    while has_changed:
        has_changed = False
        for number, parts in parts_of.items():
            for source in sorted(parts, key=lambda shard: (parts[shard], shard)):
                target = min(
                    (shard for shard in parts if shard != source),
                    key=lambda shard: (times[shard], shard),
                    default=source,
                )
                together_s = times[target] + parts[source]
                if target == source or together_s > max(longest_s, worth_s[number]):
                    continue
                was_longest = times[source] == longest_s
                times[source] -= parts[source] + models[number].load_s
                times[target] = together_s
                parts[target] += parts.pop(source)
                _replace_shard(packing.places[number], source, target)
                longest_s = packing.longest_s if was_longest else max(longest_s, together_s)
                has_changed = True


def _sum_parts(model: ModelRows, place: array[int]) -> dict[int, float]:
    """Return the seconds of the model's rows on each of its shards."""
    parts: dict[int, float] = {}
    for row_s, shard in zip(model.rows, place, strict=True):
        parts[shard] = parts.get(shard, 0.0) + row_s
    return parts


def _replace_shard(place: array[int], source: int, target: int) -> None:
    place[:] = array("i", (target if shard == source else shard for shard in place))
