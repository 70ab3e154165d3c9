"""The seconds that a row adds to its worker: measured in earlier runs, or guessed.

A row whose like has been measured is not guessed. If the cluster's GPU has been measured with other
rows, guesses are scaled by how far off they were for the most similar of these.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from oellm.frameworks.interface import count_documents
from oellm.manifest.rows import Row
from oellm.models.sizes import ModelSizes, is_same_size
from oellm.plan import guesses
from oellm.plan.guesses import Factors, Setting
from oellm.plan.measured_rates import (
    FIRST_BATCH_S,
    Measurement,
    Point,
    assume_rate,
    fit_rate,
    predict_seconds,
)
from oellm.plan.program_times import ProgramTimes

# Floor for measured times, in seconds.
_LEAST_S = 0.001
# Measurements that count for an estimate: the latest N of like rows, or the N most similar ones.
_MOST_COUNTED = 9
# Entries of each cache of a CostModel.
_CACHED = 2**16
# The columns of the factors, without those that only tell the size.
_COLUMNS = (
    *("eval_suite", "task_path", "n_shot", "backend", "tp", "dtype", "limit", "batch_size"),
    *("gen_kwargs", "n_docs", "n_requests", "request_types"),
)


class Estimate(NamedTuple):
    """An estimated time.

    Attributes:
        seconds: What a row should add to its worker.
        basis: Where it comes from: measured, calibrated or guessed.
        is_counted: Whether the row's requests are known, from its columns or an earlier run.
    """

    seconds: float
    basis: str
    is_counted: bool = True


class _Guessed(NamedTuple):
    """A guess that measurements were compared with.

    Attributes:
        size: The size of the model in bytes.
        request_s: The guess, in seconds a request.
    """

    size: int
    request_s: float

    def distance(self, other: _Guessed) -> float:
        """Return how far two guesses are from each other, as the logarithm of a factor."""
        sizes = math.log(max(self.size, 1) / max(other.size, 1))
        return abs(sizes) + abs(math.log(self.request_s / other.request_s))


class CostModel:
    """Estimates rows on one cluster; the same measurements and rows give the same estimates.

    The cluster's GPU is that of the latest measurement made on the cluster. If there is none, every
    row is guessed.

    Attributes:
        programs: The times of programs, which do not count for rows of other kinds.
    """

    def __init__(self, measured: Iterable[Measurement] = (), cluster: str = "") -> None:
        self._sizes = ModelSizes()
        given = list(measured)
        self.programs = ProgramTimes(given, cluster)
        resident = (one for one in given if not one.is_program)
        everything = sorted(resident, key=lambda one: one.finished)
        own = [one for one in everything if one.cluster == cluster]
        here = [one for one in everything if own and one.gpu == own[-1].gpu]
        starts = [one.start_s for one in own if one.start_s > 0]
        # Seconds from the start of a job to the worker's first row, without loading its model.
        self.start_s: float = median(starts) if starts else guesses.START_S
        # What tasks ask depends neither on the model nor on the cluster. By task, then by limit;
        # the latest row counts, and the latest limit is last.
        self._counted: dict[tuple[str, str], dict[int | float | None, Factors]] = {}
        for one in everything:
            factors = self._factors(one.row)
            place = (factors.setting.eval_suite, factors.setting.task_path)
            by_limit = self._counted.setdefault(place, {})
            by_limit.pop(factors.limit, None)
            by_limit[factors.limit] = factors
        # By setting, then by the size of the model and by the number of requests: many runs with a
        # small limit must not hide the one that evaluated all documents.
        self._by_setting: dict[Setting, dict[tuple[int, int], list[Measurement]]] = {}
        for one in here:
            factors = self._factors(one.row)
            groups = self._by_setting.setdefault(factors.setting, {})
            group = groups.setdefault((factors.size, one.requests), [])
            group.append(one)
            del group[:-_MOST_COUNTED]
        self._fixed = self._fixed_parts()
        self._calibrations = self._calibrate(here)
        # What every row adds beside the model's answers; a worker prepares the next rows meanwhile.
        beside = [(one.building_s + one.beside_s) / 2 for one in here]
        self._row_s = median(beside) if beside else guesses.ROW_S
        self._loads = [
            (one.row.typed.tp, self._sizes.size(one.row), one.load_s)
            for one in here
            if one.load_s > 0
        ]
        ratios = [seconds / guesses.guess_load(size) for _, size, seconds in self._loads]
        self._load_ratio = median(ratios) if ratios else 1.0
        # Most rows of a large manifest differ from others in nothing but the name of their model.
        self._estimate = functools.lru_cache(_CACHED)(self._estimate_cells)
        self._load = functools.lru_cache(_CACHED)(self._load_of)

    def row(self, row: Row) -> Estimate:
        """Return what a checked row adds to its worker once its model is loaded."""
        return self._estimate(self._sizes.size(row), *map(row.cells.get, _COLUMNS))

    def load(self, row: Row) -> float:
        """Return the seconds that loading a checked row's model takes."""
        return self._load(row.typed.tp, self._sizes.size(row))

    def _factors(self, row: Row) -> Factors:
        return Factors.of(row, self._sizes.size(row))

    def _estimate_cells(self, size: int, *texts: str | None) -> Estimate:
        """Return the estimate of a row with these cells, in the order of _COLUMNS."""
        cells = {name: text or "" for name, text in zip(_COLUMNS, texts, strict=True)}
        return self._estimate_of(Factors.of(Row(cells), size))

    def _estimate_of(self, row: Factors) -> Estimate:
        counts, is_counted = self._count(row)
        if alike := self._alike(row):
            seconds = self._measured_seconds(row, alike, sum(counts.values()))
            return Estimate(seconds, "measured", is_counted)
        return self._scaled_guess(row, counts)._replace(is_counted=is_counted)

    def _count(self, row: Factors) -> tuple[Mapping[str, float], bool]:
        """Return the requests of a row by type, and whether they are more than assumed."""
        if counts := guesses.count_requests(row):
            return counts, True
        known = self._counted.get((row.setting.eval_suite, row.setting.task_path), {})
        whole, documents = known.get(None), None
        if whole is not None:
            documents = count_documents(whole.n_docs or 1, row.limit)
        elif row.limit is not None and row.limit >= 1:
            # Nobody knows whether the task has that number of documents.
            documents = int(row.limit)
        if row.limit in known:
            measured = known[row.limit]
            return guesses.count_requests(measured), True
        if known:
            measured = whole or next(reversed(known.values()))
            scale = (documents or guesses.assume_documents(row.limit)) / (measured.n_docs or 1)
            counts = guesses.count_requests(measured)
            return {kind: number * scale for kind, number in counts.items()}, documents is not None
        return guesses.guess_counts(row), documents is not None

    def _measured_seconds(
        self, row: Factors, alike: Sequence[Measurement], requests: float
    ) -> float:
        """Return the seconds of a row with a number of requests from those of rows like it."""
        scoring = predict_seconds(
            [Point(one.requests, one.scoring_s) for one in alike],
            requests,
            self._fixed_seconds(row.size),
        )
        beside = predict_seconds(
            [Point(one.requests, one.beside_s) for one in alike], requests, fixed_s=0.0
        )
        # While the model answers one row, the worker prepares and finishes at least two others.
        beside = (median(one.building_s for one in alike) + beside) / 2
        return max(scoring, beside, _LEAST_S)

    def _scaled_guess(self, row: Factors, counts: Mapping[str, float]) -> Estimate:
        """Return a guess, scaled by what the most similar measured rows of its types took."""
        guessed = guesses.guess_seconds(row, counts)
        is_calibrated = guessed.keys() <= self._calibrations.keys()
        seconds = 0.0
        for kind, guess in guessed.items():
            place = _Guessed(row.size, guess / max(counts[kind], 1))
            seconds += guess * _similar_ratio(self._calibrations.get(kind, {}), place)
        fixed = self._fixed_seconds(row.size) if is_calibrated else 0.0
        row_s = self._row_s if is_calibrated else guesses.ROW_S
        seconds = max(row_s + fixed + seconds, _LEAST_S)
        return Estimate(seconds, "calibrated" if is_calibrated else "guessed")

    def _alike(self, row: Factors) -> list[Measurement]:
        """Return the latest measurements of rows that are like this one, for each number."""
        groups = self._by_setting.get(row.setting, {})
        return [
            one
            for (size, _), ones in groups.items()
            if is_same_size(size, row.size)
            for one in ones
        ]

    def _fixed_parts(self) -> dict[int, float]:
        """Return the seconds of scoring that do not depend on requests, by size of the model.

        They are part of every row, so no row took less.
        """
        fitted: dict[int, list[float]] = {}
        shortest: dict[int, float] = {}
        for groups in self._by_setting.values():
            points: dict[int, list[Point]] = {}
            for (size, requests), ones in groups.items():
                points.setdefault(size, []).extend(Point(requests, one.scoring_s) for one in ones)
            for size, of_size in points.items():
                least = min(point.seconds for point in of_size)
                shortest[size] = min(least, shortest.get(size, least))
                if (rate := fit_rate(of_size)) is not None:
                    fitted.setdefault(size, []).append(rate.fixed_s)
        return {
            size: min(median(fitted.get(size, [FIRST_BATCH_S])), least)
            for size, least in shortest.items()
        }

    def _fixed_seconds(self, size: int) -> float:
        """Return the fixed part of scoring with a model of a size, 0 if nothing was measured."""
        same = [fixed for other, fixed in self._fixed.items() if is_same_size(other, size)]
        known = same or list(self._fixed.values())
        return min(known, default=0.0)

    def _load_of(self, gpus: int, size: int) -> float:
        alike = [
            seconds
            for tp, other, seconds in self._loads
            if tp == gpus and is_same_size(other, size)
        ]
        seconds = median(alike) if alike else guesses.guess_load(size) * self._load_ratio
        return max(seconds, _LEAST_S)

    def _calibrate(self, measured: Iterable[Measurement]) -> dict[str, dict[_Guessed, list[float]]]:
        """Return, by type of request, the factors by which guesses were too low, latest last."""
        found: dict[str, dict[_Guessed, list[float]]] = {}
        for one in measured:
            factors = self._factors(one.row)
            counts = guesses.count_requests(factors)
            # If a row has requests of two types, nobody knows how long each of them took.
            if factors.request_types and len(counts) == 1:
                kind, guess = next(iter(guesses.guess_seconds(factors, counts).items()))
                rate = assume_rate(
                    Point(one.requests, one.scoring_s), self._fixed_seconds(factors.size)
                )
                place = _Guessed(factors.size, guess / max(counts[kind], 1))
                ratios = found.setdefault(kind, {}).setdefault(place, [])
                ratios.append(rate.request_s / place.request_s)
        return found


def _similar_ratio(known: Mapping[_Guessed, list[float]], place: _Guessed) -> float:
    """Return the ratio of the most similar guesses that were measured, 1 if there are none.

    Small models are bound by the start of kernels, large ones by memory or arithmetic, so a ratio
    holds for models of about the same size and for requests of about the same length.
    """
    ratios: list[float] = []
    for similar in heapq.nsmallest(_MOST_COUNTED, known, key=place.distance):
        ratios += reversed(known[similar])
    return median(ratios[:_MOST_COUNTED]) if ratios else 1.0
