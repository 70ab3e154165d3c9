"""Estimates of rows against the times that they took.

scripts/record-times recorded the times in recorded_times.jsonl: two models on three tasks with 0
and 5 shots and four limits, on two cores of an AMD EPYC without a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from oellm.manifest.rows import Row
from oellm.plan.costs import CostModel
from oellm.plan.measured_rates import Measurement

RECORDED = Path(__file__).with_name("recorded_times.jsonl")


def recorded_times() -> list[Measurement]:
    lines = map(json.loads, RECORDED.read_text(encoding="utf-8").splitlines())
    return [
        Measurement(**{**line, "row": Row(line["row"])}, gpu="CPU", cluster="here")
        for line in lines
    ]


TIMES = recorded_times()
LIMITS = sorted({one.row["limit"] for one in TIMES}, key=lambda text: float(text or "inf"))


def with_limits(limits: Iterable[str]) -> list[Measurement]:
    return [one for one in TIMES if one.row["limit"] in limits]


def share_within_two(known: list[Measurement], rows: list[Measurement]) -> float:
    """Return the share of rows whose estimate is at most twice as long, or half as long."""
    costs = CostModel(known, "here")
    good = 0
    for one in rows:
        taken = max(one.scoring_s, (one.building_s + one.beside_s) / 2)
        good += 0.5 <= costs.row(one.row).seconds / taken <= 2
    return good / len(rows)


def test_estimates_from_all_other_rows_are_within_a_factor_of_two() -> None:
    shares = [
        share_within_two([other for other in TIMES if other is not one], [one]) for one in TIMES
    ]
    assert sum(shares) / len(shares) >= 0.9


@pytest.mark.parametrize("number", range(2, len(LIMITS)))
def test_estimates_from_smaller_limits_are_within_a_factor_of_two(number: int) -> None:
    smaller, limit = LIMITS[:number], LIMITS[number]
    assert share_within_two(with_limits(smaller), with_limits([limit])) >= 0.9
