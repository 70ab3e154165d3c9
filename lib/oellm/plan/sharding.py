"""Shards: which worker of which job array evaluates which rows."""

from __future__ import annotations

import bisect
import heapq
import math
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from oellm.manifest.model_key import ModelKey
from oellm.plan.packing import pack_rows
from oellm.plan.packing_types import ModelRows, Packing, number_longest_first
from oellm.runs.run_record import LEAST_ROW_TIMEOUT_S, Array, Shard

# Sums that differ in their last digits only are equal.
_TOLERANCE = 1e-9
# A row hangs if it takes that many times its estimate, unless a setting says otherwise.
_HUNG_AFTER = 10


class ModelWork(NamedTuple):
    """The rows of one model.

    Attributes:
        key: What the model is loaded by.
        load_s: Seconds to load it.
        rows: Seconds of each row, in the order of the manifest.
    """

    key: ModelKey
    load_s: float
    rows: Sequence[float]


class ShardPlan(NamedTuple):
    """Where each row is evaluated.

    Attributes:
        arrays: The job arrays.
        shards: The shards of all arrays, by index.
        shard_of: For each ModelWork, the shard of each of its rows.
    """

    arrays: list[Array]
    shards: list[Shard]
    shard_of: list[array[int]]


class Room(NamedTuple):
    """What bounds the arrays of a run, and how long their shards should be.

    Attributes:
        elements: Most array elements of the run; None means no bound.
        shard_s: Seconds that a shard should take; 0 means as long as its one model does.
        start_s: Seconds that each worker takes before its first row.
    """

    elements: int | None
    shard_s: float
    start_s: float


class Group(NamedTuple):
    """What one array evaluates, and the number of workers of each of its elements."""

    models: list[ModelRows]
    workers: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(len(model.rows) for model in self.models)


def plan_shards(work: Sequence[ModelWork], room: Room, workers: Callable[[int], int]) -> ShardPlan:
    """Return the arrays, the shards and the shard of each row.

    Each framework and each number of GPUs has one array, in the order in which they appear;
    `workers` returns the workers of an element, given the GPUs of a worker. The result depends on
    the values of `work` and their order alone. Times must be finite and not below 0, and each model
    must have a row.
    """
    numbers_of: dict[tuple[str, int], list[int]] = {}
    for number, one in enumerate(work):
        numbers_of.setdefault((one.key.eval_suite, one.key.tp), []).append(number)
    models = [ModelRows.of(one.load_s, one.rows) for one in work]
    groups = [
        Group([models[number] for number in numbers], workers(tp))
        for (_, tp), numbers in numbers_of.items()
    ]
    shares = share_elements(groups, room)
    result = ShardPlan([], [], [array("i") for _ in work])
    for (suite, tp), group, share in zip(numbers_of, groups, shares, strict=True):
        packing = number_longest_first(pack_group(group, room, share))
        _add_array(result, (suite, tp), group=group, packing=packing, start_s=room.start_s)
        first = result.arrays[-1].first_shard
        for number, place in zip(numbers_of[suite, tp], packing.places, strict=True):
            result.shard_of[number] = array("i", (first + shard for shard in place))
    return result


def _add_array(
    result: ShardPlan, kind: tuple[str, int], group: Group, packing: Packing, *, start_s: float
) -> None:
    """Add the array of a group and its shards; `kind` is their framework and GPUs."""
    suite, tp = kind
    count, first = len(packing.times), len(result.shards)
    position = len(result.arrays)
    result.arrays.append(
        Array(
            script=f"submit_evals-{suite}-tp{tp}.sbatch" if position else "submit_evals.sbatch",
            eval_suite=suite,
            gpus=tp,
            workers=group.workers,
            elements=-(-count // group.workers),
            first_shard=first,
        )
    )
    models, rows, seconds = [0] * count, [0] * count, [start_s] * count
    longest = [0.0] * count
    for model, place in zip(group.models, packing.places, strict=True):
        for shard in sorted(set(place)):
            models[shard] += 1
            seconds[shard] += model.load_s
        for row_s, shard in zip(model.rows, place, strict=True):
            rows[shard] += 1
            seconds[shard] += row_s
            longest[shard] = max(longest[shard], row_s)
    for shard in range(count):
        result.shards.append(
            Shard(
                index=first + shard,
                array=position,
                element=shard // group.workers,
                models=models[shard],
                rows=rows[shard],
                estimate_s=seconds[shard],
                row_timeout_s=max(LEAST_ROW_TIMEOUT_S, int(_HUNG_AFTER * longest[shard])),
            )
        )


def share_elements(groups: Sequence[Group], room: Room) -> list[int]:
    """Return the most elements that each group gets.

    That is as many as its work makes. If there is less room, each group gets one, and the rest goes
    to where the work per element is largest.
    """
    wanted = [_count_elements(group, room) for group in groups]
    if room.elements is None or sum(wanted) <= room.elements:
        return wanted
    work_s = [
        math.fsum(model.whole_s for model in group.models) / group.workers for group in groups
    ]
    shares = [1] * len(groups)
    waiting = [(-work_s[number], number) for number in range(len(groups)) if wanted[number] > 1]
    heapq.heapify(waiting)
    for _ in range(room.elements - len(groups)):
        _, number = waiting[0]
        shares[number] += 1
        if shares[number] < wanted[number]:
            heapq.heapreplace(waiting, (-work_s[number] / shares[number], number))
        else:
            heapq.heappop(waiting)
    return shares


def pack_group(group: Group, room: Room, share: int) -> Packing:
    """Return the packing of a group's rows into the shards of at most `share` elements."""
    elements = min(_count_elements(group, room), share)
    if not room.shard_s and len(group.models) <= elements * group.workers:
        return _pack_model_by_model(group.models)
    # On whole nodes every GPU is paid for, whether it loads a model or waits for its neighbour.
    spare_loads = group.workers == 1
    return pack_rows(group.models, min(elements * group.workers, group.n_rows), spare_loads)


def _pack_model_by_model(models: Sequence[ModelRows]) -> Packing:
    places = [array("i", [number]) * len(model.rows) for number, model in enumerate(models)]
    return Packing([model.whole_s for model in models], places)


def _count_elements(group: Group, room: Room) -> int:
    """Return how many elements make the shards of a group as long as they should be."""
    if not room.shard_s:
        return -(-len(group.models) // group.workers)
    # Never spend more time starting than evaluating.
    length = max(room.shard_s - room.start_s, room.start_s)
    shards = math.fsum(_count_shards(model, length) for model in group.models)
    count = math.ceil(min(shards - _TOLERANCE, group.n_rows))
    return -(-max(count, 1) // group.workers)


def _count_shards(model: ModelRows, length: float) -> float:
    """Return how many shards of a length, as a fraction, the model fills with its loads.

    A row that is longer than a shard should be has a shard to itself.
    """
    # Never spend more time loading than evaluating.
    room = max(length - model.load_s, model.load_s)
    long = bisect.bisect_left(model.order, -room, key=lambda row: -model.rows[row])
    rest_s = math.fsum(model.rows[row] for row in model.order[long:])
    if rest_s > room:
        return long + rest_s / room
    return long + (rest_s + model.load_s) / (room + model.load_s) if rest_s else long
