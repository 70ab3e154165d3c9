"""pass@k of generated programs, computed from the number of samples that passed.

The estimate is the usual unbiased one, as in bigcodebench and evalplus: for a problem with n
samples, c of which pass, the chance that at least one of k drawn samples passes; averaged over
problems.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from oellm.metrics.scored_rows import MetricScore


class Tally(NamedTuple):
    """The samples of one problem."""

    passed: int
    tried: int


class PassRate(NamedTuple):
    """pass@k over all problems."""

    value: float
    # Standard deviation of the problems' pass@k / sqrt(problems); None for a single problem.
    stderr: float | None


def compute_pass_rates(tallies: Sequence[Tally], ks: Sequence[int]) -> dict[int, PassRate]:
    """Return pass@k for each k for which every problem has at least k samples."""
    fewest = min((tally.tried for tally in tallies), default=0)
    return {k: _pass_rate(tallies, k) for k in ks if k <= fewest}


def make_score(task: str, k: int, rate: PassRate, n_samples: int | None, tests: str) -> MetricScore:
    """Return pass@k as a score without few-shot examples.

    `tests` is its filter: which tests the programs had to pass.
    """
    return MetricScore(
        task=task,
        group="",
        n_shot=0,
        metric=f"pass@{k}",
        filter=tests,
        value=rate.value,
        stderr=rate.stderr,
        higher_is_better=True,
        n_samples=n_samples,
        aggregate="",
    )


def require_samples(problems: Mapping[str, Any], status: str) -> dict[str, list[dict[str, Any]]]:
    """Return the samples of each problem.

    Raises ValueError if a problem has no samples, or a sample has no text as its status.
    """
    for problem, samples in problems.items():
        if not isinstance(samples, list) or not samples:
            raise ValueError(f"eval: {problem}: expected a list of samples")
        for sample in samples:
            if not isinstance(sample, dict) or not isinstance(sample.get(status), str):
                raise ValueError(f"eval: {problem}: expected samples with {status}")
    return dict(problems)


def _pass_rate(tallies: Sequence[Tally], k: int) -> PassRate:
    rates = [
        1.0 - math.comb(tally.tried - tally.passed, k) / math.comb(tally.tried, k)
        for tally in tallies
    ]
    stderr = statistics.stdev(rates) / math.sqrt(len(rates)) if len(rates) > 1 else None
    return PassRate(statistics.fmean(rates), stderr)
