"""Times of other numbers of requests: exact on a straight line, robust against one slow run."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oellm.plan.measured_rates import Point, Rate, fit_rate, predict_seconds

RATES = st.builds(Rate, st.floats(0, 100), st.floats(1e-4, 10))
NUMBERS = st.lists(st.integers(1, 10**5), min_size=1, max_size=6, unique=True)


def points_of(rate: Rate, numbers: list[int]) -> list[Point]:
    return [Point(number, rate.seconds(number)) for number in numbers]


@given(RATES, NUMBERS, st.integers(1, 10**6))
def test_times_on_a_line_predict_every_other_time(
    rate: Rate, numbers: list[int], wanted: int
) -> None:
    assume(max(numbers) > 2 * min(numbers))
    points = points_of(rate, numbers)
    assert fit_rate(points) == pytest.approx(rate, rel=1e-6, abs=1e-6)
    assume(all(rate.fixed_s <= 0.7 * point.seconds for point in points))
    assert predict_seconds(points, wanted, 0.0) == pytest.approx(rate.seconds(wanted), rel=1e-6)


@given(RATES, NUMBERS, st.integers(1, 10**6))
def test_a_known_fixed_part_makes_one_time_enough(
    rate: Rate, numbers: list[int], wanted: int
) -> None:
    point = points_of(rate, numbers)[0]
    assume(rate.fixed_s <= 0.7 * point.seconds)
    expected = rate.seconds(wanted)
    assert predict_seconds([point], wanted, rate.fixed_s) == pytest.approx(expected, rel=1e-6)


def test_a_smoke_test_does_not_multiply_its_first_batch() -> None:
    # Of the 1.2 seconds of 16 requests, one is the first batch on the GPU.
    assert predict_seconds([Point(16, 1.2)], 9504, 1.0) < 200
    assert predict_seconds([Point(16, 1.2)], 9504, 0.0) > 700
    # The time of a row of similar size counts, not the smoke test.
    both = [Point(16, 1.2), Point(8000, 26.0)]
    assert predict_seconds(both, 9504, 1.0) == pytest.approx(31, abs=1)


@pytest.mark.parametrize("slow", range(5))
def test_one_slow_run_of_five_changes_little(slow: int) -> None:
    rate = Rate(2.0, 0.1)
    points = points_of(rate, [100, 400, 1000, 1100, 1200])
    points[slow] = Point(points[slow].requests, points[slow].seconds * 20)
    for near, far in combinations([900, 1000, 1300], 2):
        for wanted in (near, far):
            assert 0.5 < predict_seconds(points, wanted, 0.0) / rate.seconds(wanted) < 2
