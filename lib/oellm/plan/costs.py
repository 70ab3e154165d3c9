"""The seconds that a row adds to its worker: measured in earlier runs, or guessed.

A guess counts the operations and the memory reads of a model. Its constants are round figures for
one A100 and for usual tasks: they give the proportions between rows, which a plan needs, but no
bill. If the cluster's GPU has been measured, guesses are scaled by how far off they were. A row
whose like has been measured is not guessed at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from oellm.frameworks.interface import (
    GENERATE_UNTIL,
    LOGLIKELIHOOD,
    LOGLIKELIHOOD_ROLLING,
    count_documents,
)
from oellm.manifest.rows import Row
from oellm.models.sizes import ModelSizes

# Operations per second: a third of the dense bfloat16 peak in NVIDIA's data sheet of the A100,
# which is 312e12.
_OPERATIONS_PER_S = 1e14
# Bytes per second from the GPU's memory; the same data sheet has 1.6e12 to 2e12.
_MEMORY_BYTES_PER_S = 1.5e12
# Seconds of one forward pass of a model that is too small to keep the GPU busy: Python launches
# the kernels.
_PASS_S = 0.02
# Requests in a batch if the backend finds out itself how many fit.
_AUTO_BATCH = 16
# Tokens of one document with its question, or of one shot; and of one text scored as a whole.
_DOCUMENT_TOKENS = 100
_ROLLING_TOKENS = 2000
# Tokens to generate if the row does not say: a usual default of frameworks.
_NEW_TOKENS = 256
# Documents of a task, and requests per document, if nobody has counted them. A group of tasks has
# more documents, but its name does not tell how many.
_DOCUMENTS = 2000
_REQUESTS_PER_DOCUMENT = 4
# Seconds that every row adds: the task's data, metrics, files.
_ROW_S = 2.0
# Seconds to build a model, and bytes per second to read it from a shared file system.
_LOAD_S = 10.0
_LOADED_BYTES_PER_S = 1e9
# Seconds until the first row: the container, and the imports of torch and the framework.
_START_S = 60.0
# Floor for measured times, in seconds.
_LEAST_S = 0.001
# Models whose sizes differ by at most this share of the larger one count as equal in size.
_SAME_SIZE = 0.2
# Measurements of like rows that count: the latest N.
_LATEST = 9
# Numbers in cells are clamped to these.
_MOST_REQUESTS = 10**12
_MOST_TOKENS = 10**6
# Entries of each cache of a CostModel.
_CACHED = 2**16

_LIMITS_OF_GENERATION = ("max_gen_toks", "max_new_tokens", "max_tokens")


class Estimate(NamedTuple):
    """An estimated time.

    Attributes:
        seconds: What a row should add to its worker.
        basis: Where it comes from: measured, calibrated or guessed.
    """

    seconds: float
    basis: str


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

    def seconds(self, requests: float) -> float:
        """Return the seconds that the row would add to its worker with this many requests.

        While the model answers one row, the worker prepares and finishes at least two others.
        """
        scale = requests / (self.row.typed.n_requests or 1)
        beside = (self.building_s + self.beside_s * scale) / 2
        return max(self.scoring_s * scale, beside, _LEAST_S)


class _Setting(NamedTuple):
    """What two rows must share, besides GPU and size of the model, for their times to compare."""

    eval_suite: str
    task_path: str
    n_shot: int | None
    backend: str
    tp: int


class _Factors(NamedTuple):
    """Everything in a row that its time depends on; `size` is that of its model, in bytes."""

    setting: _Setting
    size: int
    dtype: str
    limit: int | float | None
    batch_size: int | str
    gen_kwargs: str
    n_docs: int | None
    n_requests: int | None
    request_types: str

    @classmethod
    def of(cls, row: Row, size: int) -> _Factors:
        """Return the factors of a row, whose model has a size in bytes."""
        typed = row.typed
        setting = _Setting(
            eval_suite=typed.eval_suite,
            task_path=typed.task_path,
            n_shot=typed.n_shot,
            backend=typed.backend,
            tp=typed.tp,
        )
        return cls(
            setting=setting,
            size=size,
            dtype=typed.dtype,
            limit=typed.limit,
            batch_size=typed.batch_size,
            gen_kwargs=row["gen_kwargs"],
            n_docs=typed.n_docs,
            n_requests=typed.n_requests,
            request_types=typed.request_types,
        )


# The columns of the factors, without those that only tell the size.
_COLUMNS = (
    *("eval_suite", "task_path", "n_shot", "backend", "tp", "dtype", "limit", "batch_size"),
    *("gen_kwargs", "n_docs", "n_requests", "request_types"),
)


class CostModel:
    """Estimates rows on one cluster; the same measurements and rows give the same estimates.

    The cluster's GPU is that of the latest measurement made on the cluster. If there is none, every
    row is guessed.
    """

    def __init__(self, measured: Iterable[Measurement] = (), cluster: str = "") -> None:
        self._sizes = ModelSizes()
        everything = sorted(measured, key=lambda one: one.finished)
        own = [one for one in everything if one.cluster == cluster]
        here = [one for one in everything if own and one.gpu == own[-1].gpu]
        starts = [one.start_s for one in own if one.start_s > 0]
        # Seconds from the start of a job to the worker's first row, without loading its model.
        self.start_s: float = median(starts) if starts else _START_S
        # What tasks ask depends neither on the model nor on the cluster; the latest counts.
        self._counted = {_task_and_limit(self._factors(one.row)): one.row for one in everything}
        # By setting, then by the size of the model.
        self._by_setting: dict[_Setting, dict[int, list[Measurement]]] = {}
        for one in here:
            factors = self._factors(one.row)
            by_size = self._by_setting.setdefault(factors.setting, {})
            by_size[factors.size] = [*by_size.get(factors.size, []), one][-_LATEST:]
        self._ratios = self._calibrated(here)
        self._loads = [
            (one.row.typed.tp, self._sizes.size(one.row), one.load_s)
            for one in here
            if one.load_s > 0
        ]
        ratios = [seconds / _guessed_load(size) for _, size, seconds in self._loads]
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

    def _factors(self, row: Row) -> _Factors:
        return _Factors.of(row, self._sizes.size(row))

    def _estimate_cells(self, size: int, *texts: str | None) -> Estimate:
        """Return the estimate of a row with these cells, in the order of _COLUMNS."""
        cells = {name: text or "" for name, text in zip(_COLUMNS, texts, strict=True)}
        return self._estimate_of(_Factors.of(Row(cells), size))

    def _estimate_of(self, row: _Factors) -> Estimate:
        counts = _request_counts(row)
        if alike := self._alike(row):
            given = sum(counts.values())
            times = (
                one.seconds(given or _requests_like(row, self._factors(one.row))) for one in alike
            )
            return Estimate(median(times), "measured")
        if not counts:
            counted = self._counted.get(_task_and_limit(row))
            counts = _request_counts(self._factors(counted)) if counted else _guessed_counts(row)
        is_calibrated = counts.keys() <= self._ratios.keys()
        seconds = _ROW_S + sum(
            guess * self._ratios.get(kind, 1.0)
            for kind, guess in _guessed_seconds(row, counts).items()
        )
        return Estimate(seconds, "calibrated" if is_calibrated else "guessed")

    def _alike(self, row: _Factors) -> list[Measurement]:
        """Return the latest measurements of rows that are like this one."""
        by_size = self._by_setting.get(row.setting, {})
        alike = [one for size in by_size if _is_same_size(size, row.size) for one in by_size[size]]
        return sorted(alike, key=lambda one: one.finished)[-_LATEST:]

    def _load_of(self, gpus: int, size: int) -> float:
        alike = [
            seconds
            for tp, other, seconds in self._loads
            if tp == gpus and _is_same_size(other, size)
        ]
        seconds = median(alike) if alike else _guessed_load(size) * self._load_ratio
        return max(seconds, _LEAST_S)

    def _calibrated(self, measured: Iterable[Measurement]) -> dict[str, float]:
        """Return, by type of request, the factor by which guesses were too low."""
        ratios: dict[str, list[float]] = {}
        for one in measured:
            factors = self._factors(one.row)
            counts = _request_counts(factors)
            # If a row has requests of two types, nobody knows how long each of them took.
            if factors.request_types and len(counts) == 1:
                kind, seconds = next(iter(_guessed_seconds(factors, counts).items()))
                ratios.setdefault(kind, []).append(one.scoring_s / seconds)
        return {kind: median(of_kind) for kind, of_kind in ratios.items()}


def _task_and_limit(row: _Factors) -> tuple[str, str, int | float | None]:
    return row.setting.eval_suite, row.setting.task_path, row.limit


def _is_same_size(one: int, other: int) -> bool:
    return abs(one - other) <= _SAME_SIZE * max(one, other)


def _guessed_load(size: int) -> float:
    return _LOAD_S + size / _LOADED_BYTES_PER_S


def _request_counts(row: _Factors) -> Mapping[str, float]:
    """Return the requests of a row by type, as far as its columns say; else nothing.

    Requests of an unknown type count as loglikelihood, which most are.
    """
    if row.request_types:
        return _parsed_counts(row.request_types)
    if row.n_requests is not None:
        return {LOGLIKELIHOOD: min(row.n_requests, _MOST_REQUESTS)}
    if row.n_docs is not None:
        return {LOGLIKELIHOOD: min(row.n_docs, _MOST_REQUESTS) * _REQUESTS_PER_DOCUMENT}
    return {}


def _parsed_counts(text: str) -> Mapping[str, float]:
    """Return the requests by type in a cell, nothing if the cell holds something else."""
    if not re.fullmatch(r"\w+=[0-9]{1,18}(,\w+=[0-9]{1,18})*", text, re.ASCII):
        return {}
    counts: dict[str, float] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        kind = name if name in (LOGLIKELIHOOD_ROLLING, GENERATE_UNTIL) else LOGLIKELIHOOD
        counts[kind] = min(counts.get(kind, 0) + int(count), _MOST_REQUESTS)
    return counts


def _guessed_counts(row: _Factors) -> Mapping[str, float]:
    return {LOGLIKELIHOOD: _guessed_documents(row.limit) * _REQUESTS_PER_DOCUMENT}


def _guessed_documents(limit: int | float | None) -> int:
    is_number = limit is not None and limit >= 1
    # Nobody knows how many documents the task has, so a number of documents counts in full.
    return count_documents(_MOST_REQUESTS if is_number else _DOCUMENTS, limit)


def _requests_like(row: _Factors, measured: _Factors) -> float:
    """Return the requests of a row that nobody counted, from those of a measured one."""
    requests, documents = measured.n_requests or 1, measured.n_docs or 1
    limit, other = row.limit, measured.limit
    if limit == other:
        return requests
    if limit and other and (limit < 1) == (other < 1):
        return requests * min(limit, _MOST_REQUESTS) / other
    return _guessed_documents(limit) * requests / documents


def _guessed_seconds(row: _Factors, counts: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds that the model needs for a row's requests, by type.

    A parameter of two bytes takes two operations per token, so a byte takes one. Generation is
    bound by memory: each token of a batch reads all weights.
    """
    given = row.batch_size
    batch = min(given, _MOST_TOKENS) if isinstance(given, int) else _AUTO_BATCH
    shots = min(row.setting.n_shot or 0, _MOST_TOKENS)
    # The backend hf computes on one GPU after the other.
    gpus = min(row.setting.tp, _MOST_TOKENS) if row.setting.backend != "hf" else 1
    # Operations on weights of four bytes take twice as long.
    slowness = 2 if row.dtype == "float32" else 1
    token_s = slowness * row.size / (_OPERATIONS_PER_S * gpus)
    pass_s = max(_PASS_S, row.size / (_MEMORY_BYTES_PER_S * gpus))
    seconds = {}
    for kind, count in counts.items():
        passes = _new_tokens(row.gen_kwargs) if kind == GENERATE_UNTIL else 1
        tokens = (
            _ROLLING_TOKENS if kind == LOGLIKELIHOOD_ROLLING else _DOCUMENT_TOKENS * (shots + 1)
        )
        # At least one request: no row is free.
        seconds[kind] = max(count, 1) * (passes * pass_s / batch + tokens * token_s)
    return seconds


def _new_tokens(text: str) -> int:
    """Return how many tokens generation arguments let the model write per request."""
    given = Row({"gen_kwargs": text}).typed.gen_kwargs
    texts = (str(given[name]) for name in _LIMITS_OF_GENERATION if name in given)
    number = next((text for text in texts if re.fullmatch(r"[0-9]{1,18}", text)), _NEW_TOKENS)
    return min(max(1, int(number)), _MOST_TOKENS)
