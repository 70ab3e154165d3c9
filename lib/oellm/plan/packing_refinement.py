"""Refinement: a packing made better by moving rows, and by putting parts of models together."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from oellm.plan.packing_types import ModelRows, Packing

# A move must shorten the longest shard by more than rounding does.
_SHORTER = 1 - 1e-9


class _Unit(NamedTuple):
    """What moves from one shard to another: one row, or all rows that a shard has of a model."""

    model: int
    rows: tuple[int, ...]
    seconds: float
    # What the shard takes less without the unit, beside its seconds: the load, or nothing.
    freed_s: float


class _Exchange(NamedTuple):
    """A unit of the longest shard for one of another shard, or for nothing."""

    given: _Unit
    taken: _Unit | None
    other: int
    # Of the longest shard and the other one, afterwards.
    times: tuple[float, float]


def improve(models: Sequence[ModelRows], packing: Packing, comparisons: int) -> None:
    """Shorten the longest shard, in place, by moves and exchanges with other shards.

    It ends where none of them helps, or soon after so many of them were compared. It is for few
    rows: it holds each of them.
    """
    exchanges = _Exchanges(models, packing, comparisons)
    while (exchange := exchanges.best()) and exchanges.comparisons > 0:
        exchanges.make(exchange)


class _Exchanges:
    """Exchanges between the longest shard and the others."""

    def __init__(self, models: Sequence[ModelRows], packing: Packing, comparisons: int) -> None:
        self._models = models
        self._times, self._places = packing
        self.comparisons = comparisons
        # Of each shard, the rows by their model.
        self._held: list[dict[int, list[int]]] = [{} for _ in self._times]
        for model, place in enumerate(self._places):
            for row, shard in enumerate(place):
                self._held[shard].setdefault(model, []).append(row)

    def best(self) -> _Exchange | None:
        """Return the exchange after which the longer of the two is shortest, if any helps."""
        longest = self._longest()
        best, best_s = None, self._times[longest] * _SHORTER
        units = list(self._units(longest))
        for other in range(len(self._times)):
            if other == longest:
                continue
            wanted = [None, *self._units(other)]
            self.comparisons -= len(units) * len(wanted)
            for given in units:
                for taken in wanted:
                    times = self._after(longest, other, given, taken)
                    if max(times) < best_s:
                        best, best_s = _Exchange(given, taken, other, times), max(times)
        return best

    def make(self, exchange: _Exchange) -> None:
        """Make the exchange."""
        longest = self._longest()
        self._move(exchange.given, longest, exchange.other)
        if exchange.taken:
            self._move(exchange.taken, exchange.other, longest)
        self._times[longest], self._times[exchange.other] = exchange.times

    def _longest(self) -> int:
        return max(range(len(self._times)), key=self._times.__getitem__)

    def _units(self, shard: int) -> Iterator[_Unit]:
        for model, held in self._held[shard].items():
            load_s, seconds = self._models[model].load_s, self._models[model].rows
            if len(held) > 1:
                yield _Unit(model, tuple(held), sum(seconds[row] for row in held), load_s)
            for row in held:
                yield _Unit(model, (row,), seconds[row], load_s if len(held) == 1 else 0.0)

    def _after(
        self, longest: int, other: int, given: _Unit, taken: _Unit | None
    ) -> tuple[float, float]:
        """Return the times of the two shards after the exchange."""
        if taken and taken.model == given.model:
            # Both shards keep rows of the model.
            more_s = given.seconds - taken.seconds
            return self._times[longest] - more_s, self._times[other] + more_s
        longest_s = self._times[longest] - given.seconds - given.freed_s
        other_s = self._times[other] + self._added_s(given, other)
        if taken:
            longest_s += self._added_s(taken, longest)
            other_s -= taken.seconds + taken.freed_s
        return longest_s, other_s

    def _added_s(self, unit: _Unit, shard: int) -> float:
        """Return what the shard takes more with the unit."""
        load_s = 0.0 if unit.model in self._held[shard] else self._models[unit.model].load_s
        return unit.seconds + load_s

    def _move(self, unit: _Unit, source: int, target: int) -> None:
        held = self._held[source][unit.model]
        for row in unit.rows:
            held.remove(row)
            self._held[target].setdefault(unit.model, []).append(row)
            self._places[unit.model][row] = target
        if not held:
            del self._held[source][unit.model]


def reunite(models: Sequence[ModelRows], packing: Packing, worth_s: Sequence[float]) -> None:
    """Put parts of a model together, in place, where the split is not worth the load.

    That is where one shard with both parts takes no longer than the longest shard, or than
    worth_s of the model. A shard may be left empty.
    """
    times = packing.times
    parts_of = {
        number: _parts(model, place)
        for number, (model, place) in enumerate(zip(models, packing.places, strict=True))
        if place.count(place[0]) < len(place)
    }
    longest_s = packing.longest_s
    found = True
    while found:
        found = False
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
                _replace(packing.places[number], source, target)
                longest_s = packing.longest_s if was_longest else max(longest_s, together_s)
                found = True


def _parts(model: ModelRows, place: array[int]) -> dict[int, float]:
    """Return the seconds of the model's rows on each of its shards."""
    parts: dict[int, float] = {}
    for row_s, shard in zip(model.rows, place, strict=True):
        parts[shard] = parts.get(shard, 0.0) + row_s
    return parts


def _replace(place: array[int], source: int, target: int) -> None:
    place[:] = array("i", (target if shard == source else shard for shard in place))
