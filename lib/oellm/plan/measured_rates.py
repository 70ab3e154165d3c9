"""Seconds for a number of requests, from the times that other numbers of the same requests took.

A row has a fixed part, such as the model's first batch, and a part that grows with its requests.
So the time of a row with a small `limit` is not scaled as a whole: most of it is the fixed part.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from oellm.manifest.rows import Row

# The fixed part if nothing tells it, a round figure for the first batch on a GPU.
FIRST_BATCH_S = 1.0
# Numbers of requests that differ by at most this factor count as similar.
_SIMILAR = 2.0
# The fixed part that other rows tell is at most this share of a row's time.
_MOST_FIXED = 0.75


class Point(NamedTuple):
    """A measured time: this number of requests took these seconds."""

    requests: float
    seconds: float


class Measurement(NamedTuple):
    """How long a row took that was evaluated as a whole.

    Attributes:
        row: The row, with the model_bytes, n_docs, n_requests and, if known, request_types that
            it turned out to have.
        gpu: Name of the GPU, or of the processor if the model had no GPU.
        cluster: Name of the cluster.
        finished: When the row ended, UTC, ISO 8601.
        scoring_s: Seconds in which the model answered.
        building_s: Seconds to find and build the task, which do not depend on its requests.
        beside_s: Seconds of prompts, tokens and metrics, which grow with the requests.
        load_s: Seconds to load the model if the row was the first on it, else 0.
        start_s: Seconds to start the worker if the row was its first, else 0.
        second_s: Seconds of its second stage, 0 if it has one stage.
        is_program: Whether a program computed it; then scoring_s is the time of the program of its
            first or only stage.
    """

    row: Row
    gpu: str
    cluster: str
    finished: str
    scoring_s: float
    building_s: float
    beside_s: float
    load_s: float
    start_s: float
    second_s: float = 0.0
    is_program: bool = False

    @property
    def requests(self) -> int:
        """The requests of the row, at least 1."""
        return self.row.typed.n_requests or 1


class Rate(NamedTuple):
    """How the seconds of a row depend on its requests.

    Attributes:
        fixed_s: Seconds that do not depend on them.
        request_s: Seconds of each request.
    """

    fixed_s: float
    request_s: float

    def seconds(self, requests: float) -> float:
        """Return the seconds of a number of requests."""
        return self.fixed_s + self.request_s * requests


def fit_rate(points: Sequence[Point]) -> Rate | None:
    """Return the rate that fits points, or None if their numbers of requests are too similar.

    The slope is the median over all pairs of points with different numbers (Theil and Sen), so one
    run that something else slowed down changes little.
    """
    slopes = [
        (more.seconds - less.seconds) / (more.requests - less.requests)
        for less in points
        for more in points
        if more.requests > _SIMILAR * less.requests
    ]
    if not slopes:
        return None
    slope = max(0.0, median(slopes))
    fewest = min(point.requests for point in points)
    # The smallest rows show the fixed part best.
    small = [point for point in points if point.requests <= _SIMILAR * fewest]
    fixed = median(point.seconds - slope * point.requests for point in small)
    return Rate(max(0.0, fixed), slope)


def assume_rate(point: Point, fixed_s: float) -> Rate:
    """Return the rate of a single point, given the fixed part that other rows tell."""
    fixed = min(fixed_s, _MOST_FIXED * point.seconds)
    return Rate(fixed, (point.seconds - fixed) / max(point.requests, 1.0))


def predict_seconds(points: Sequence[Point], requests: float, fixed_s: float) -> float:
    """Return the seconds of a number of requests; there is at least one point.

    If there are points with a similar number of requests, only these count. Otherwise those with
    the most similar numbers count. `fixed_s` is as for `assume_rate`.
    """
    fitted = fit_rate(points)
    usual = fixed_s if fitted is None else fitted.fixed_s
    nearest = min(_factor(point.requests, requests) for point in points)
    near = [
        point for point in points if _factor(point.requests, requests) <= max(_SIMILAR, nearest)
    ]
    return median(assume_rate(point, usual).seconds(requests) for point in near)


def _factor(one: float, other: float) -> float:
    """Return by what factor two numbers of requests differ, at least 1."""
    small, large = sorted((max(one, 1.0), max(other, 1.0)))
    return large / small
