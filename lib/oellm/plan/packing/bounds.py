"""A lower bound for the longest shard, and how near to the shortest possible a packing comes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from oellm.plan.packing.model_rows import ModelRows

# Most rows of one shard that the bound by shared shards looks at.
_SHARING = 4
# Halvings of an interval; more would only change the last digits.
_HALVINGS = 50
# Sums that differ in their last digits only are equal.
_TOLERANCE = 1e-9


def guarantee(count: int) -> float:
    """Return the multiple of the shortest possible that the longest of `count` shards may take.

    Graham proved it for longest-first packing without loads.
    """
    return 4 / 3 - 1 / (3 * count)


def lower_bound(models: Sequence[ModelRows], count: int) -> float:
    """Return seconds that the longest of `count` shards takes at least, however they are packed.

    It is the largest of four: the longest row with its load; the mean of the shards; the least time
    that rows take that must share a shard; and the length that holds all rows with all the loads
    that they need if models are too large for one shard.
    """
    longest_s = max(model.load_s + model.longest_row_s for model in models)
    least = max(
        longest_s,
        math.fsum(model.whole_s for model in models) / count,
        _sharing_bound(models, count),
    )
    return _loading_bound(models, count, least)


def _sharing_bound(models: Sequence[ModelRows], count: int) -> float:
    """Return the least time of n + 1 rows: of any n * count + 1 rows, one shard has n + 1."""
    most = (_SHARING - 1) * count + 1
    # A load that only one row needs counts as a part of that row.
    rows = (
        (model.rows[at], model.load_s) if len(model.rows) > 1 else (model.whole_s, 0.0)
        for model in models
        for at in model.order[:most]
    )
    longest = heapq.nlargest(most, rows)
    bound = 0.0
    for sharing in range(2, (len(longest) - 1) // count + 2):
        some = longest[: (sharing - 1) * count + 1]
        rows_s = sum(row_s for row_s, _ in some[-sharing:])
        bound = max(bound, rows_s + min(load_s for _, load_s in some))
    return max(bound, _pairs_bound(models, count))


def _pairs_bound(models: Sequence[ModelRows], count: int) -> float:
    """Return the least time of any two of the count + 1 longest rows: two of them share a shard.

    Unlike above, two rows of different models count with both loads.
    """
    longest = heapq.nlargest(
        count + 1,
        (
            (model.rows[at], -number)
            for number, model in enumerate(models)
            for at in model.order[: count + 1]
        ),
    )
    if len(longest) <= count:
        return 0.0
    shortest_of: dict[int, float] = {}
    pairs = []
    for row_s, number in reversed(longest):
        if number not in shortest_of:
            shortest_of[number] = row_s
        else:
            pairs.append(shortest_of[number] + row_s + models[-number].load_s)
    loaded = sorted(row_s + models[-number].load_s for number, row_s in shortest_of.items())
    if len(loaded) > 1:
        pairs.append(loaded[0] + loaded[1])
    return min(pairs)


def _loading_bound(models: Sequence[ModelRows], count: int, least: float) -> float:
    """Return the shortest length from `least` on that holds all rows and the loads they need."""
    large = [model for model in models if model.whole_s > least]
    once_s = math.fsum(model.whole_s for model in models)

    def fits(length: float) -> bool:
        again_s = math.fsum(
            model.load_s * (_count_parts(model, length) - 1)
            for model in large
            if model.whole_s > length
        )
        return once_s + again_s <= count * length * (1 + _TOLERANCE)

    if fits(least):
        return least
    short, long = least, max(model.whole_s for model in large)
    for _ in range(_HALVINGS):
        middle = (short + long) / 2
        if fits(middle):
            long = middle
        else:
            short = middle
    return short


def _count_parts(model: ModelRows, length: float) -> int:
    """Return how many shards of a length a model needs; a longer row makes its shard longer."""
    room = max(length - model.load_s, model.longest_row_s)
    return math.ceil(model.total_s / room - _TOLERANCE)
