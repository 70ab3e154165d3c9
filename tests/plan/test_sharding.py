"""The plan: every row in one shard, no more elements than there is room for, none much longer."""

from __future__ import annotations

import itertools
import math
import os
import sys
from array import array
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.manifest.model_key import ModelKey
from oellm.plan.packing.bounds import guarantee, lower_bound
from oellm.plan.packing.model_rows import ModelRows
from oellm.plan.row_stages import WorkKey
from oellm.plan.sharding import ModelWork, Room, ShardPlan, plan_shards
from oellm.runs.run_record import Array, Shard
from support.exact_packing import can_pack
from support.processes import Run

# Lumpy, equal, large and no seconds at all: what packs badly.
SECONDS = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0]),
    st.floats(0, 100, allow_subnormal=False),
)
FACTOR = 1 + 1e-9


@st.composite
def works(draw: st.DrawFn, most_rows: int = 10) -> list[ModelWork]:
    rows = draw(st.lists(SECONDS, min_size=1, max_size=most_rows))
    work = []
    while rows:
        count = draw(st.integers(1, len(rows)))
        suite = draw(st.sampled_from(["lm_eval", "lm_eval", "lm_eval", "bigcode"]))
        key = ModelKey(suite, f"m{len(work)}", "", "hf", "", draw(st.sampled_from([1, 1, 1, 2])))
        work.append(ModelWork(WorkKey(key), draw(SECONDS), array("d", rows[:count])))
        rows = rows[count:]
    return work


ROOMS = st.builds(
    Room,
    st.none() | st.integers(1, 12),
    st.floats(0.001, 60),
    st.sampled_from([0.0, 0.5, 10.0]),
)
Work = list[ModelWork]
NODES = st.sampled_from([1, 1, 2, 4])


def node_of(gpus: int) -> Callable[[int], int]:
    return lambda tp: max(1, gpus // tp)


def shards_of(made: ShardPlan, number: int) -> list[Shard]:
    return [shard for shard in made.shards if shard.array == number]


def models_of(work: Work, array: Array) -> Iterator[tuple[int, ModelWork]]:
    for number, one in enumerate(work):
        if (one.key.model.eval_suite, one.key.gpus) == (array.eval_suite, array.gpus):
            yield number, one


@settings(deadline=None, max_examples=50)
@given(works(), ROOMS, NODES)
def test_a_plan_is_whole_and_within_its_room(work: Work, room: Room, gpus: int) -> None:
    workers = node_of(gpus)
    made = plan_shards(work, room, workers)
    groups = list(dict.fromkeys((one.key.model.eval_suite, one.key.gpus) for one in work))
    assert [(one.eval_suite, one.gpus) for one in made.arrays] == groups
    assert made.arrays[0].script == "submit_evals.sbatch"
    assert len({one.script for one in made.arrays}) == len(groups)
    assert [shard.index for shard in made.shards] == list(range(len(made.shards)))
    assert room.elements is None or (
        sum(one.elements for one in made.arrays) <= max(room.elements, len(groups))
    )
    assert [len(shard_of) for shard_of in made.shard_of] == [len(one.rows) for one in work]
    first = 0
    for number, one in enumerate(made.arrays):
        shards = shards_of(made, number)
        assert (one.workers, one.first_shard) == (workers(one.gpus), first)
        assert one.elements == math.ceil(len(shards) / one.workers)
        assert [shard.element for shard in shards] == [
            place // one.workers for place in range(len(shards))
        ]
        # Neighbours on a node are alike, and Slurm starts the longest first.
        times = [shard.estimate_s for shard in shards]
        assert all(a >= b - 1e-6 for a, b in itertools.pairwise(times))
        first += len(shards)
        for shard in shards:
            rows = {
                at: [
                    row
                    for row, place in zip(one.rows, made.shard_of[at], strict=True)
                    if place == shard.index
                ]
                for at, one in models_of(work, one)
            }
            held = {at: seconds for at, seconds in rows.items() if seconds}
            assert (shard.models, shard.rows) == (len(held), sum(map(len, held.values())))
            assert shard.rows
            loads = sum(work[at].load_s for at in held)
            expected = room.start_s + loads + sum(map(sum, held.values()))
            assert shard.estimate_s == pytest.approx(expected)
    assert sum(shard.rows for shard in made.shards) == sum(len(one.rows) for one in work)


def check_lengths(work: Work, room: Room, gpus: int) -> None:
    """Check that no shard is longer than promised, and that no model is split for nothing."""
    made = plan_shards(work, room, node_of(gpus))
    for number, one in enumerate(made.arrays):
        times = [shard.estimate_s - room.start_s for shard in shards_of(made, number)]
        longest = max(times)
        mine = list(models_of(work, one))
        bound = lower_bound([ModelRows.of(each.load_s, each.rows) for _, each in mine], len(times))
        most = guarantee(len(times)) * bound
        if longest > most * FACTOR + 1e-9:
            # No simple bound tells whether a shorter one is possible: try it out.
            shorter = longest / guarantee(len(times)) / FACTOR
            models = [(each.load_s, list(each.rows)) for _, each in mine]
            assert not can_pack(models, len(times), shorter)
        for at, each in mine:
            worth = min(bound + (each.load_s if one.workers == 1 else 0.0), most)
            parts: dict[int, float] = {}
            for row, shard in zip(each.rows, made.shard_of[at], strict=True):
                place = shard - one.first_shard
                parts[place] = parts.get(place, 0.0) + row
            for kept, moved in itertools.permutations(parts, 2):
                together = times[kept] + parts[moved]
                assert together > max(longest, worth) / FACTOR - 1e-9


@settings(deadline=None, max_examples=50)
@given(works(), ROOMS, NODES)
def test_no_shard_is_much_longer_than_it_must_be(work: Work, room: Room, gpus: int) -> None:
    check_lengths(work, room, gpus)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000)
@given(works(24), ROOMS, NODES)
def test_no_shard_of_many_plans_is_much_longer(work: Work, room: Room, gpus: int) -> None:
    check_lengths(work, room, gpus)


@settings(deadline=None, max_examples=50)
@given(works(), NODES, st.sampled_from([0.0, 10.0]))
def test_without_a_length_each_model_has_a_shard_where_there_is_room(
    work: Work, gpus: int, start_s: float
) -> None:
    made = plan_shards(work, Room(None, 0.0, start_s), node_of(gpus))
    assert len(made.shards) == len(work)
    assert sorted(shard_of[0] for shard_of in made.shard_of) == list(range(len(work)))
    assert all(len(set(shard_of)) == 1 for shard_of in made.shard_of)
    arrays = len(made.arrays)
    few = plan_shards(work, Room(arrays, 0.0, start_s), node_of(1))
    assert len(few.shards) == arrays


@settings(deadline=None, max_examples=50)
@given(works(7), st.integers(1, 4), st.floats(0.3, 1.5))
def test_no_packing_is_shorter_than_the_bound(work: Work, count: int, part: float) -> None:
    models = [(one.load_s, list(one.rows)) for one in work]
    bound = lower_bound([ModelRows.of(load_s, rows) for load_s, rows in models], count)
    if can_pack(models, count, bound * part):
        assert part * FACTOR >= 1 or bound == 0
    # A bound of nothing would be right as well: it is at least what all do on the average.
    assert bound * FACTOR >= sum(load_s + sum(rows) for load_s, rows in models) / count


def work_of(*models: tuple[float, list[float]]) -> list[ModelWork]:
    return [
        ModelWork(
            WorkKey(ModelKey("lm_eval", f"m{number}", "", "hf", "")), load_s, array("d", rows)
        )
        for number, (load_s, rows) in enumerate(models)
    ]


@pytest.mark.parametrize(
    ("work", "room", "gpus", "times"),
    [
        # Two models of an hour with their loads; no row leaves its model.
        (work_of((600, [3000]), (600, [1500, 1500])), Room(None, 3600, 0), 1, [3600, 3600]),
        # What is longer than a shard should be has one to itself; it would not end earlier if the
        # other model were split.
        (work_of((0, [18000]), (9, [900] * 8)), Room(None, 3600, 0), 1, [18000, 7209]),
        # Rows of all models go longest first: 13 + 13 and 13 + 5 + 5.
        (work_of((0, [0, 5, 13]), (0, [13]), (0, [5, 13])), Room(2, 1, 0), 1, [26, 23]),
        # A long load counts: 19 + 12 and 25 + 3 + 3.
        (work_of((10, [15]), (0, [19, 3, 3]), (12, [0])), Room(2, 1, 0), 1, [31, 31]),
        # There is no room for the fifth shard.
        (work_of((0, [60] * 300)), Room(2, 3600, 0), 1, [9000] * 2),
        # A node's GPUs are all paid for.
        (work_of((60, [60] * 40)), Room(None, 3600, 0), 4, [660] * 4),
        # Two short parts are worth less than the load of a second one.
        (work_of((600, [60] * 10), (0, [60] * 12)), Room(2, 600, 0), 1, [1200, 720]),
    ],
)  # fmt: skip
def test_numbers_of_shards(work: Work, room: Room, gpus: int, times: list[float]) -> None:
    made = plan_shards(work, room, node_of(gpus))
    assert [shard.estimate_s for shard in made.shards] == times


def test_room_is_shared_by_work() -> None:
    work = [
        ModelWork(
            WorkKey(ModelKey("lm_eval", "m", "", "hf", "", tp)), 0.0, array("d", [600.0] * count)
        )
        for tp, count in ((1, 60), (2, 30), (4, 1))
    ]
    made = plan_shards(work, Room(7, 3600, 0), lambda _: 1)
    assert [one.elements for one in made.arrays] == [4, 2, 1]


def test_very_many_shards() -> None:
    work = work_of(*[(60.0, [3540.0])] * 10_000)
    made = plan_shards(work, Room(None, 3600.0, 0.0), lambda _: 1)
    assert len(made.shards) == 10_000


HASHED = """
from array import array
from oellm.manifest.model_key import ModelKey
from oellm.plan.sharding import *
import random
draw = random.Random(3)
work = [
    ModelWork(WorkKey(ModelKey(draw.choice("ab"), str(n), "", "hf", "")), draw.choice([1.0, 9.0]),
         array("d", draw.choices([1.0, 2.0, 3.0, 7.0], k=draw.randrange(1, 9))))
    for n in range(60)
]
print(plan_shards(work, Room(30, 20.0, 1.0), lambda tp: 2))
"""


def test_the_hash_seed_does_not_matter(run: Run) -> None:
    made = [
        run(sys.executable, "-c", HASHED, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]
    assert made[0].startswith("ShardPlan(")
