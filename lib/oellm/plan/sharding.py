"""Shards: which worker of which job array evaluates which rows."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import heapq
import itertools
import math
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from oellm.frameworks.stages import EVALUATE
from oellm.plan.packing.filling import pack_rows
from oellm.plan.packing.model_rows import ModelRows, Packing, number_longest_first
from oellm.plan.row_stages import Needs, WorkKey
from oellm.runs.run_record import LEAST_ROW_TIMEOUT_S, Array, Shard

# Sums that differ in their last digits only are equal.
_TOLERANCE = 1e-9
# A row hangs if it takes that many times its estimate, unless a setting says otherwise.
_HUNG_AFTER = 10
# Seconds that a worker without a framework takes before its first row.
_START_S = 10.0


class SecondStages(NamedTuple):
    """The second stages of a model's rows, by the unit that has their first stage.

    Attributes:
        seconds: Seconds of the second stages of each unit's rows.
        counts: How many of them have one.
        needs: What suffices for each of them.
    """

    seconds: Sequence[float]
    counts: Sequence[int]
    needs: Needs


class ModelWork(NamedTuple):
    """The rows of one model, in units: a row, or several that share the output of a first stage.

    Attributes:
        key: What the model is loaded by, and where.
        load_s: Seconds to load it.
        rows: Seconds of the first or only stage of each unit, in the order of the manifest.
        counts: The rows of each unit; None if each is one row.
        needs: What its workers need if they use no GPU.
        second: The second stages; None if no row has one.
    """

    key: WorkKey
    load_s: float
    rows: Sequence[float]
    counts: Sequence[int] | None = None
    needs: Needs = Needs()
    second: SecondStages | None = None


class ShardPlan(NamedTuple):
    """Where each row is evaluated.

    Attributes:
        arrays: The job arrays; those that follow others come last.
        shards: The shards of all arrays, by index.
        shard_of: For each ModelWork, the shard of each of its units.
        second_shard_of: The shard of the second stages of each unit's rows, if it has some.
        outside: The positions of arrays whose workers run on the node, outside of containers.
    """

    arrays: list[Array]
    shards: list[Shard]
    shard_of: list[array[int]]
    second_shard_of: list[array[int]]
    outside: set[int]


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


class _Kind(NamedTuple):
    """What the rows of one array share."""

    eval_suite: str
    gpus: int
    is_resident: bool
    uses_gpu: bool

    @property
    def name(self) -> str:
        """The part of a script's name that tells it from others."""
        return f"{self.eval_suite}-tp{self.gpus}" if self.uses_gpu else f"{self.eval_suite}-cpu"


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

    The rows of one framework that need the same have one array, in the order in which they appear;
    `workers` returns the workers of an element, given the GPUs of a worker. If some of its rows
    have a second stage, another array follows it. The result depends on the values of `work` and
    their order alone. Times must be finite and not below 0, and each model must have a row.
    """
    numbers_of: dict[_Kind, list[int]] = {}
    for number, one in enumerate(work):
        key = one.key
        kind = _Kind(
            key.model.eval_suite,
            key.gpus,
            is_resident=key.is_resident,
            uses_gpu=key.uses_gpu,
        )
        numbers_of.setdefault(kind, []).append(number)
    models = [ModelRows.of(one.load_s, one.rows) for one in work]
    groups = [
        Group([models[number] for number in numbers], workers(kind.gpus) if kind.gpus else 1)
        for kind, numbers in numbers_of.items()
    ]
    shares = share_elements(groups, room)
    result = ShardPlan(
        arrays=[],
        shards=[],
        shard_of=[array("i") for _ in work],
        second_shard_of=[array("i") for _ in work],
        outside=set(),
    )
    for (kind, numbers), group, share in zip(numbers_of.items(), groups, shares, strict=True):
        packing = number_longest_first(pack_group(group, room, share))
        members = [work[number] for number in numbers]
        _add_array(result, kind, work=members, group=group, packing=packing, start_s=room.start_s)
        first = result.arrays[-1].first_shard
        for number, place in zip(numbers, packing.places, strict=True):
            result.shard_of[number] = array("i", (first + shard for shard in place))
    for position, numbers in enumerate(numbers_of.values()):
        if any(work[number].second is not None for number in numbers):
            _add_following(result, position, work=work, numbers=numbers)
    return result


def _add_array(
    result: ShardPlan,
    kind: _Kind,
    work: Sequence[ModelWork],
    *,
    group: Group,
    packing: Packing,
    start_s: float,
) -> None:
    """Add the array of a group and its shards."""
    count, first = len(packing.times), len(result.shards)
    position = len(result.arrays)
    needs = functools.reduce(Needs.joined, (one.needs for one in work))
    result.arrays.append(
        Array(
            script=f"submit_evals-{kind.name}.sbatch" if position else "submit_evals.sbatch",
            eval_suite=kind.eval_suite,
            gpus=kind.gpus,
            workers=group.workers,
            elements=-(-count // group.workers),
            first_shard=first,
            cpus=None if kind.uses_gpu else needs.cpus,
            memory_gib=None if kind.uses_gpu else needs.memory_gib,
        )
    )
    if not kind.is_resident:
        result.outside.add(position)
    models, rows, seconds = [0] * count, [0] * count, [start_s] * count
    longest = [0.0] * count
    for one, place in zip(work, packing.places, strict=True):
        for shard in sorted(set(place)):
            models[shard] += 1
            seconds[shard] += one.load_s
        counts = one.counts or itertools.repeat(1, len(place))
        for row_s, n_rows, shard in zip(one.rows, counts, place, strict=True):
            rows[shard] += n_rows
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


def _add_following(
    result: ShardPlan, position: int, work: Sequence[ModelWork], numbers: Sequence[int]
) -> None:
    """Add the array that computes the second stages of another array's rows, and its shards.

    An element of it has the second stages of all rows of the element that it follows.
    """
    leader, first = result.arrays[position], len(result.shards)
    models, rows = [0] * leader.elements, [0] * leader.elements
    seconds, longest = [0.0] * leader.elements, [0.0] * leader.elements
    needs = Needs()
    for number in numbers:
        if (second := work[number].second) is None:
            continue
        needs = needs.joined(second.needs)
        places = [result.shards[shard].element for shard in result.shard_of[number]]
        result.second_shard_of[number] = array("i", (first + element for element in places))
        for element, unit_s, count in zip(places, second.seconds, second.counts, strict=True):
            rows[element] += count
            seconds[element] += unit_s
            longest[element] = max(longest[element], unit_s)
        counted = zip(places, second.counts, strict=True)
        for element in {element for element, count in counted if count}:
            models[element] += 1
    result.outside.add(len(result.arrays))
    result.arrays.append(
        dataclasses.replace(
            leader,
            script=f"{leader.script.removesuffix('.sbatch')}-{EVALUATE}.sbatch",
            gpus=0,
            workers=1,
            first_shard=first,
            follows=position,
            cpus=needs.cpus,
            memory_gib=needs.memory_gib,
        )
    )
    for element in range(leader.elements):
        result.shards.append(
            Shard(
                index=first + element,
                array=len(result.arrays) - 1,
                element=element,
                models=models[element],
                rows=rows[element],
                estimate_s=seconds[element] + _START_S if rows[element] else 0.0,
                row_timeout_s=max(LEAST_ROW_TIMEOUT_S, int(_HUNG_AFTER * longest[element])),
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
