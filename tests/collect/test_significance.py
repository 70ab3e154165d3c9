"""Standard errors and p-values of differences: by hand, by enumeration, and by simulation."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm.collect.significance import (
    LEVEL,
    correct_by_holm,
    independent_difference,
    paired_difference,
)

SCORES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-100, 100))
BOTH = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30)


def sides(both: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in both], [b for _, b in both]


def test_ten_documents_by_hand() -> None:
    # The differences are 1 five times, -1 once, and 0 four times. Their mean is 0.4, the squares
    # around it sum to 6 - 10 * 0.16 = 4.4, so the standard error is sqrt(4.4 / 9 / 10), and z is
    # 1.809068.
    a = [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    b = [1, 1, 1, 1, 1, 0, 1, 1, 0, 0]
    found = paired_difference(a, b)
    assert found.value == pytest.approx(0.4)
    assert found.stderr == pytest.approx(0.2211083)
    assert found.p_value == pytest.approx(0.070440, abs=1e-6)


@pytest.mark.parametrize(
    ("z", "p_value"),
    # From tables of the normal distribution.
    [(0.0, 1.0), (1.0, 0.3173105), (1.959964, 0.05), (2.575829, 0.01), (3.290527, 0.001)],
)
def test_p_values_are_those_of_the_tables(z: float, p_value: float) -> None:
    # The standard errors 3 and 4 add up to 5.
    found = independent_difference(5 * z, (3.0, 4.0), (None, None))
    assert found.stderr == 5
    assert found.p_value == pytest.approx(p_value, rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_constant_differences_are_as_sure_as_a_permutation_test(n: int) -> None:
    patterns = list(itertools.product([-1, 1], repeat=n))
    extreme = sum(abs(sum(pattern)) == n for pattern in patterns)
    found = paired_difference([0.0] * n, [1.0] * n)
    assert found == (1.0, 0.0, extreme / len(patterns))
    padded = paired_difference([0.0] * (n + 3), [1.0] * n + [0.0] * 3)
    assert padded.p_value is not None
    assert padded.p_value >= extreme / len(patterns)
    splits = list(itertools.combinations([0.0] * n + [1.0] * n, n))
    extreme = sum(sum(split) in (0, n) for split in splits)
    apart = independent_difference(1.0, (0.0, 0.0), (n, n))
    assert apart.p_value == pytest.approx(extreme / len(splits))


def test_without_standard_errors_the_p_value_is_unknown() -> None:
    assert paired_difference([0.0], [1.0]) == (1.0, None, None)
    assert independent_difference(0.1, (0.1, None), (5, 5)) == (0.1, None, None)
    assert independent_difference(0.1, (0.0, 0.0), (None, 5)) == (0.1, 0.0, None)
    # Equal scores do not differ, whatever the noise.
    assert paired_difference([1.0], [1.0]) == (0.0, None, 1.0)
    assert independent_difference(0.0, (None, None), (None, None)) == (0.0, None, 1.0)
    assert independent_difference(0.0, (0.0, 0.0), (None, None)) == (0.0, 0.0, 1.0)


@given(BOTH)
def test_swapping_the_sides_changes_only_the_sign(both: list[tuple[float, float]]) -> None:
    a, b = sides(both)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there == (-back.value, *back[1:])
    assert paired_difference(a, a)[::2] == (0.0, 1.0)
    if there.p_value is not None:
        assert 0 <= there.p_value <= 1


@given(BOTH)
def test_pairing_helps_if_the_sides_are_correlated(both: list[tuple[float, float]]) -> None:
    a, b = sides(both)
    if len(both) < 2 or statistics.covariance(a, b) <= 0:
        return
    n = math.sqrt(len(both))
    stderrs = statistics.stdev(a) / n, statistics.stdev(b) / n
    alone = independent_difference(0.0, stderrs, (len(both), len(both)))
    assert paired_difference(a, b).stderr <= alone.stderr * (1 + 1e-9) + 1e-9  # type: ignore[operator]


@pytest.mark.parametrize(("n", "rounds"), [(6, 3000), (100, 1000)])
def test_equal_models_rarely_differ_significantly(n: int, rounds: int) -> None:
    chance = random.Random(n)
    alarms = [0, 0]
    for _ in range(rounds):
        # Both models get some documents right, as real models do.
        easy = [chance.random() < 0.5 for _ in range(n)]
        a, b = ([float(e or chance.random() < 0.4) for e in easy] for _ in "ab")
        alarms[0] += paired_difference(a, b).p_value < LEVEL  # type: ignore[operator]
        stderrs = [statistics.stdev(side) / math.sqrt(n) for side in (a, b)]
        difference = statistics.fmean(b) - statistics.fmean(a)
        alone = independent_difference(difference, (stderrs[0], stderrs[1]), (n, n))
        alarms[1] += alone.p_value < LEVEL  # type: ignore[operator]
    expected = LEVEL * rounds
    most = expected + 3 * math.sqrt(expected * (1 - LEVEL))
    assert max(alarms) < most
    # With six documents even an exact test seldom reaches the level.
    assert n == 6 or alarms[0] > expected / 2


def test_holms_correction_by_hand() -> None:
    # In order: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04, which must not be less.
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_by_holm([0.5, 0.6]) == [1.0, 1.0]
    assert correct_by_holm([]) == []
