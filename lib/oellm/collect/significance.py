"""Significance tests for the difference of two scores.

Scores vary with the choice of documents: as many others would have given another score. Tests are
two-sided and assume a normally distributed difference. No p-value is below the smallest one of
a permutation test on the same documents. Without that bound, two documents that both went from
wrong to right would count as certain, because their differences do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Differences with a p-value below this level are significant.
LEVEL = 0.05


class Difference(NamedTuple):
    """B's score minus A's; stderr and p_value are None if they cannot be known."""

    value: float
    stderr: float | None
    p_value: float | None


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare the means of values of the same documents, in the same order.

    The standard error is that of the mean of the differences. The permutation test here is the sign
    flip test: with m differences that are not zero, its smallest p-value is 2 / 2**m.
    """
    differences = [y - x for x, y in zip(a, b, strict=True)]
    n = len(differences)
    mean = math.fsum(differences) / n
    if n < 2:
        return Difference(mean, None, None if mean else 1.0)
    squares = math.fsum((difference - mean) ** 2 for difference in differences)
    stderr = math.sqrt(squares / (n - 1) / n)
    changed = n - differences.count(0.0)
    smallest = math.ldexp(1.0, 1 - changed) if changed else 1.0
    return Difference(mean, stderr, max(_normal(mean, stderr), smallest))


def independent_difference(
    difference: float,
    stderrs: tuple[float | None, float | None],
    counts: tuple[int | None, int | None],
) -> Difference:
    """Compare two scores by their standard errors, as of documents drawn independently.

    `counts` are the numbers of documents behind each score, None if unknown. The permutation test
    here exchanges documents between the two: its smallest p-value is 2 / C(n + m, n).
    """
    a, b = stderrs
    if a is None or b is None:
        return Difference(difference, None, None if difference else 1.0)
    stderr = math.hypot(a, b)
    n, m = counts
    if n is None or m is None:
        unclear = difference and not stderr
        return Difference(difference, stderr, None if unclear else _normal(difference, stderr))
    combinations = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    smallest = min(1.0, 2 * math.exp(-combinations))
    return Difference(difference, stderr, max(_normal(difference, stderr), smallest))


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of tests, by Holm's step-down method.

    If those below a level count as significant, the probability that any of them is due to chance
    is at most that level. The tests may depend on each other. (S. Holm, Scandinavian Journal of
    Statistics 6, 1979.)
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _normal(difference: float, stderr: float) -> float:
    """Return the two-sided p-value of a normally distributed difference."""
    if not difference:
        return 1.0
    return math.erfc(abs(difference) / stderr / math.sqrt(2)) if stderr else 0.0
