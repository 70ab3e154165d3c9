"""Shards: which worker of which job array evaluates which rows."""

from __future__ import annotations

import bisect
import heapq
import math
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from oellm.manifest.model_key import ModelKey
from oellm.plan.packing import pack
from oellm.plan.packing_types import ModelRows, Packing, longest_first
from oellm.runs.run_directory import Array, Shard


class Work(NamedTuple):
    """The rows of one model: what loading it takes, and each row, in the manifest's order."""

    key: ModelKey
    load_s: float
    rows: Sequence[float]


class Plan(NamedTuple):
    """Where each row is evaluated; `shard_of` has, for each Work, the shard of each row."""

    arrays: list[Array]
    shards: list[Shard]
    shard_of: list[array[int]]


def plan(work: Sequence[Work], room: Room, workers: Callable[[int], int]) -> Plan:
    """Return the arrays, the shards and the shard of each row.

    There is one array for each framework and each number of GPUs, in the order in which they
    appear; `workers` says how many workers an element has, given a worker's number of GPUs. The
    result depends on the values of `work` and their order alone. Times are finite and not below 0;
    each model has a row at least.
    """
    numbers_of: dict[tuple[str, int], list[int]] = {}
    for number, (key, _, _) in enumerate(work):
        numbers_of.setdefault((key.eval_suite, key.tp), []).append(number)
    models = [ModelRows.of(load_s, rows) for _, load_s, rows in work]
    groups = [
        Group([models[number] for number in numbers], workers(tp))
        for (_, tp), numbers in numbers_of.items()
    ]
    shares = element_shares(groups, room)
    result = Plan([], [], [array("i") for _ in work])
    for (suite, tp), group, share in zip(numbers_of, groups, shares, strict=True):
        packing = longest_first(group_packing(group, room, share))
        _add(result, (suite, tp), group, packing, room.start_s)
        first = result.arrays[-1].first_shard
        for number, place in zip(numbers_of[suite, tp], packing.places, strict=True):
            result.shard_of[number] = array("i", (first + shard for shard in place))
    return result


def _add(
    result: Plan, kind: tuple[str, int], group: Group, packing: Packing, start_s: float
) -> None:
    """Add the array of a group, and its shards, to the plan; `kind` is their framework and GPUs."""
    suite, tp = kind
    count, first = len(packing.times), len(result.shards)
    position = len(result.arrays)
    name = f"submit_evals-{suite}-tp{tp}.sbatch" if position else "submit_evals.sbatch"
    elements = -(-count // group.workers)
    result.arrays.append(Array(name, suite, tp, group.workers, elements, first))
    models, rows, seconds = [0] * count, [0] * count, [start_s] * count
    for model, place in zip(group.models, packing.places, strict=True):
        for shard in sorted(set(place)):
            models[shard] += 1
            seconds[shard] += model.load_s
        for row_s, shard in zip(model.rows, place, strict=True):
            rows[shard] += 1
            seconds[shard] += row_s
    for shard in range(count):
        element = shard // group.workers
        result.shards.append(
            Shard(first + shard, position, element, models[shard], rows[shard], seconds[shard])
        )


# So much longer than they should be shards may become, to save a wave of them.
_LONGER = 1.25


# Sums that differ in their last digits only are equal.
_TOLERANCE = 1e-9


class Room(NamedTuple):
    """What bounds the arrays of a run, and what their shards should be like."""

    # Array elements of the run, at most; None: no bound.
    elements: int | None
    # Elements of an array that run at the same time; None: all.
    concurrency: int | None
    # Seconds that a shard should take; 0: as long as its one model does.
    shard_s: float
    # Seconds that each worker takes before its first row.
    start_s: float


class Group(NamedTuple):
    """What one array evaluates, and the workers of each of its elements."""

    models: list[ModelRows]
    workers: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(len(model.rows) for model in self.models)


def element_shares(groups: Sequence[Group], room: Room) -> list[int]:
    """Return how many elements each group gets at most.

    That is as many as its work makes. If there is less room, each gets one, and the rest goes to
    where the work for each element is largest.
    """
    wanted = [_whole_waves(_elements(group, room), room) for group in groups]
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


def group_packing(group: Group, room: Room, share: int) -> Packing:
    """Return the packing of a group's rows into the shards of at most `share` elements.

    If these are more than can run at a time, another number of them is tried, too: with whole
    waves of them the end may come earlier.
    """
    elements = min(_elements(group, room), share)
    if not room.shard_s and len(group.models) <= elements * group.workers:
        return _model_by_model(group.models)
    numbers = [elements]
    if room.concurrency and elements > room.concurrency:
        fewer = elements - elements % room.concurrency
        if elements <= _LONGER * fewer:
            numbers.append(fewer)
        numbers.append(min(_whole_waves(elements, room), share))
    # On whole nodes all GPUs are paid for, whether they load a model or wait for their neighbour.
    spare_loads = group.workers == 1
    packings = [
        pack(group.models, min(number * group.workers, group.n_rows), spare_loads)
        for number in sorted(set(numbers))
    ]
    if len(packings) == 1:
        return packings[0]
    return min(packings, key=lambda packing: _end_s(packing, group.workers, room))


def _model_by_model(models: Sequence[ModelRows]) -> Packing:
    places = [array("i", [number]) * len(model.rows) for number, model in enumerate(models)]
    return Packing([model.whole_s for model in models], places)


def _elements(group: Group, room: Room) -> int:
    """Return how many elements make the shards of a group as long as they should be."""
    if not room.shard_s:
        return -(-len(group.models) // group.workers)
    # A worker that starts up for longer than it evaluates is no good.
    length = max(room.shard_s - room.start_s, room.start_s)
    shards = math.fsum(_shards(model, length) for model in group.models) if length else math.inf
    count = math.ceil(min(shards - _TOLERANCE, group.n_rows))
    return -(-max(count, 1) // group.workers)


def _shards(model: ModelRows, length: float) -> float:
    """Return how many shards of a length, a whole number or not, the model fills with its loads.

    Nor is a shard good that loads for longer than it evaluates. A row that is longer than a shard
    should be has one to itself.
    """
    room = max(length - model.load_s, model.load_s)
    long = bisect.bisect_left(model.order, -room, key=lambda row: -model.rows[row])
    rest_s = math.fsum(model.rows[row] for row in model.order[long:])
    if rest_s > room:
        return long + rest_s / room
    return long + (rest_s + model.load_s) / (room + model.load_s) if rest_s else long


def _whole_waves(elements: int, room: Room) -> int:
    """Return the elements, and if not all run at a time, so many more that each wave is full."""
    if not room.concurrency or elements <= room.concurrency:
        return elements
    return -(-elements // room.concurrency) * room.concurrency


def _end_s(packing: Packing, workers: int, room: Room) -> float:
    """Return when the last element ends, where Slurm starts the longest first."""
    elements = sorted(packing.times, reverse=True)[::workers]
    running = [0.0] * min(room.concurrency or len(elements), len(elements))
    for element_s in elements:
        heapq.heapreplace(running, running[0] + room.start_s + element_s)
    return max(running)
