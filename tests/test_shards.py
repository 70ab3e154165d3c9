"""The plan: every model in one shard, no more shards than asked for, and none much longer."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.shards import ModelKey, plan

COUNTS = st.dictionaries(
    st.builds(
        ModelKey,
        st.sampled_from(["lm_eval", "bigcodebench"]),
        st.integers(0, 30).map("acme/m{}".format),
        st.just(""),
        st.just("hf"),
        st.just(""),
    ),
    st.integers(1, 50),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 50))
def test_a_plan_is_whole_and_even(rows_of: dict[ModelKey, int], most: int) -> None:
    arrays, shards, shard_of = plan(rows_of, most)
    suites = {key.eval_suite for key in rows_of}
    assert len(shards) <= max(most, len(suites))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    models, rows = Counter(shard_of.values()), Counter[int]()
    for key, count in rows_of.items():
        rows[shard_of[key]] += count
        assert arrays[shards[shard_of[key]].array].eval_suite == key.eval_suite
    assert [(shard.models, shard.rows) for shard in shards] == [
        (models[index], rows[index]) for index in range(len(shards))
    ]
    for suite in suites:
        mine = [shard.rows for shard in shards if arrays[shard.array].eval_suite == suite]
        # The last model that made a shard the longest went to the shortest.
        largest = max(count for key, count in rows_of.items() if key.eval_suite == suite)
        assert max(mine) <= sum(mine) / len(mine) + largest


def test_a_shard_for_each_of_very_many_models() -> None:
    rows_of = {ModelKey("lm_eval", f"acme/m{n}", "", "hf", ""): 1 for n in range(50_000)}
    _, shards, shard_of = plan(rows_of, len(rows_of))
    assert list(shard_of.values()) == [shard.index for shard in shards] == list(range(50_000))
