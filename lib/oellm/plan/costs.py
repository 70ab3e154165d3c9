"""What a row costs its worker: seconds, from rows that were measured, or guessed.

A guess counts what a model computes and reads. Its constants are round figures of one A100 and of
usual tasks: good for the proportions between rows, which a plan needs, and not for a bill. Where
the cluster's GPU has been measured, guesses are scaled by how far off they were; a row whose like
has been measured is not guessed at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from oellm.manifest.rows import Row
from oellm.models.sizes import ModelSizes

# Operations a second: a third of the dense bfloat16 peak in NVIDIA's data sheet of the A100, which
# is 312e12.
_OPERATIONS_PER_S = 1e14
# Bytes a second from the GPU's memory; 1.6e12 to 2e12 in the same data sheet.
_MEMORY_BYTES_PER_S = 1.5e12
# Seconds of one forward pass of a model that is too small to keep the GPU busy: launching kernels
# from Python.
_PASS_S = 0.02
# Requests in a batch where the backend finds out how many fit.
_AUTO_BATCH = 16
# Tokens of one document with its question, of one shot, and of one text that is scored as a whole.
_DOCUMENT_TOKENS = 100
_ROLLING_TOKENS = 2000
# Tokens that are generated where the row does not say it: lm-eval's own default.
_NEW_TOKENS = 256
# Documents of a task, and requests for each, where nobody has counted them. A group of tasks has
# more of them, but how many, its name does not tell.
_DOCUMENTS = 2000
_REQUESTS_PER_DOCUMENT = 4
# Seconds that each row adds whatever it asks: the task's data, metrics, files.
_ROW_S = 2.0
# Seconds to load a model: building it, and then reading it from a shared file system.
_LOAD_S = 10.0
_LOADED_BYTES_PER_S = 1e9
# Seconds until the first row: the container, and the imports of torch and the framework.
_START_S = 60.0
# What a measured time is at least, so that no row and no load is free.
_LEAST_S = 0.001
# Sizes of models that differ by less are the same.
_SAME_SIZE = 0.2
# Of more measurements of the same the latest count.
_LATEST = 9
# Numbers in cells beyond these are taken for these.
_MOST_REQUESTS = 10**12
_MOST_TOKENS = 10**6

LOGLIKELIHOOD, ROLLING, GENERATION = "loglikelihood", "loglikelihood_rolling", "generate_until"
_LIMITS_OF_GENERATION = ("max_gen_toks", "max_new_tokens", "max_tokens")


class Estimate(NamedTuple):
    """Seconds, and where they come from: measured, calibrated or guessed."""

    seconds: float
    basis: str


class Measurement(NamedTuple):
    """How long a row took that was evaluated as a whole; times are in seconds."""

    # With model_bytes, n_docs, n_requests and, where known, request_types as they turned out.
    row: Row
    # Name of the GPU, or of the processor where the model had none.
    gpu: str
    cluster: str
    # UTC, ISO 8601.
    finished: str
    scoring_s: float
    # Beside scoring: finding and building the task, whatever it asks.
    building_s: float
    # Beside scoring: prompts, tokens, metrics, which grow with the requests.
    beside_s: float
    # Of the model, where this row was the first on it, else 0.
    load_s: float
    # Of the worker, where this row was its first, else 0.
    start_s: float

    def seconds(self, requests: float) -> float:
        """Return what the row would add to its worker with so many requests.

        While the model answers for one row, the worker sees to two others, or more.
        """
        own: int = self.row.value("n_requests")
        scale = requests / own
        beside = (self.building_s + self.beside_s * scale) / 2
        return max(self.scoring_s * scale, beside, _LEAST_S)


class _Setting(NamedTuple):
    """What makes the times of two rows comparable, besides GPU and size of the model."""

    eval_suite: str
    task_path: str
    n_shot: int | None
    backend: str
    tp: int


class CostModel:
    """Estimates rows on one cluster; the same measurements and rows give the same estimates.

    The cluster's GPU is that of the latest measurement which was made there; without any, all is
    guessed.
    """

    def __init__(self, measured: Iterable[Measurement] = (), cluster: str = "") -> None:
        self._sizes = ModelSizes()
        everything = sorted(measured, key=lambda each: each.finished)
        own = [each for each in everything if each.cluster == cluster]
        here = [each for each in everything if own and each.gpu == own[-1].gpu]
        starts = [each.start_s for each in own if each.start_s > 0]
        # Seconds from the start of a job to the worker's first row, but for loading its model.
        self.start_s: float = median(starts) if starts else _START_S
        # What tasks ask depends neither on the model nor on the cluster; the latest counts.
        self._counted = {
            (_task(each.row), each.row.value("limit")): each.row for each in everything
        }
        # By setting, then by the size of the model.
        self._by_setting: dict[_Setting, dict[int, list[Measurement]]] = {}
        for each in here:
            by_size = self._by_setting.setdefault(_setting(each.row), {})
            alike = by_size.setdefault(self._sizes.size(each.row), [])
            alike[:] = [*alike, each][-_LATEST:]
        self._ratios = self._calibrated(here)
        self._loads = [
            (each.row.value("tp") or 1, self._sizes.size(each.row), each.load_s)
            for each in here
            if each.load_s > 0
        ]
        ratios = [seconds / _guessed_load(size) for _, size, seconds in self._loads]
        self._load_ratio = median(ratios) if ratios else 1.0
        # Many rows have the same setting, on models of few sizes.
        self._alike = functools.lru_cache(2**16)(self._alike_for)
        self._load = functools.lru_cache(2**16)(self._load_for)

    def row(self, row: Row) -> Estimate:
        """Return the seconds that a checked row adds to its worker, its model being loaded."""
        size, counts = self._sizes.size(row), _counts(row)
        if alike := self._alike(_setting(row), size):
            given = sum(counts.values())
            times = (each.seconds(given or _requests_like(row, each.row)) for each in alike)
            return Estimate(median(times), "measured")
        if not counts:
            counted = self._counted.get((_task(row), row.value("limit")))
            counts = _counts(counted) if counted else _guessed_counts(row)
        is_calibrated = counts.keys() <= self._ratios.keys()
        seconds = _ROW_S + sum(
            guess * self._ratios.get(kind, 1.0)
            for kind, guess in _guessed(row, size, counts).items()
        )
        return Estimate(seconds, "calibrated" if is_calibrated else "guessed")

    def load(self, row: Row) -> float:
        """Return the seconds that loading a checked row's model takes."""
        return self._load(row.value("tp") or 1, self._sizes.size(row))

    def _alike_for(self, setting: _Setting, size: int) -> list[Measurement]:
        by_size = self._by_setting.get(setting, {})
        found = [each for other in by_size if _is_same_size(other, size) for each in by_size[other]]
        return sorted(found, key=lambda each: each.finished)[-_LATEST:]

    def _load_for(self, gpus: int, size: int) -> float:
        alike = [
            seconds
            for tp, other, seconds in self._loads
            if tp == gpus and _is_same_size(other, size)
        ]
        seconds = median(alike) if alike else _guessed_load(size) * self._load_ratio
        return max(seconds, _LEAST_S)

    def _calibrated(self, measured: Iterable[Measurement]) -> dict[str, float]:
        """Return by how much guesses were too low, by the type of requests."""
        ratios: dict[str, list[float]] = {}
        for each in measured:
            counts = _counts(each.row)
            # Where a row asks in two ways, nobody knows which of them took how long.
            if each.row["request_types"] and len(counts) == 1:
                guess = _guessed(each.row, self._sizes.size(each.row), counts)
                kind, seconds = next(iter(guess.items()))
                ratios.setdefault(kind, []).append(each.scoring_s / seconds)
        return {kind: median(each) for kind, each in ratios.items()}


def _task(row: Row) -> tuple[str, str]:
    return row.value("eval_suite"), row["task_path"]


def _setting(row: Row) -> _Setting:
    return _Setting(*_task(row), row.value("n_shot"), row.value("backend"), row.value("tp") or 1)


def _is_same_size(one: int, other: int) -> bool:
    return abs(one - other) <= _SAME_SIZE * max(one, other)


def _guessed_load(size: int) -> float:
    return _LOAD_S + size / _LOADED_BYTES_PER_S


def _counts(row: Row) -> Mapping[str, float]:
    """Return the requests of a row by type, as far as its columns say it; else nothing.

    Requests whose type is unknown count as loglikelihood, which most are.
    """
    if row["request_types"]:
        return _parsed(row["request_types"])
    if row["n_requests"]:
        return {LOGLIKELIHOOD: min(row.value("n_requests"), _MOST_REQUESTS)}
    if row["n_docs"]:
        documents = min(row.value("n_docs"), _MOST_REQUESTS)
        return {LOGLIKELIHOOD: documents * _REQUESTS_PER_DOCUMENT}
    return {}


@functools.lru_cache(8192)
def _parsed(text: str) -> Mapping[str, float]:
    """Return the requests by type in a cell, nothing where the cell holds something else."""
    if not re.fullmatch(r"\w+=[0-9]{1,18}(,\w+=[0-9]{1,18})*", text, re.ASCII):
        return {}
    counts: dict[str, float] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        kind = name if name in (ROLLING, GENERATION) else LOGLIKELIHOOD
        counts[kind] = min(counts.get(kind, 0) + int(count), _MOST_REQUESTS)
    return counts


def _guessed_counts(row: Row) -> Mapping[str, float]:
    return {LOGLIKELIHOOD: _guessed_documents(row) * _REQUESTS_PER_DOCUMENT}


def _guessed_documents(row: Row) -> float:
    limit: float | None = row.value("limit")
    if limit is None:
        return _DOCUMENTS
    return _DOCUMENTS * limit if limit < 1 else min(limit, _MOST_REQUESTS)


def _requests_like(row: Row, measured: Row) -> float:
    """Return the requests of a row that nobody counted, by one that was measured."""
    limit: float | None = row.value("limit")
    other: float | None = measured.value("limit")
    documents: int = measured.value("n_docs")
    requests: int = measured.value("n_requests")
    if limit == other:
        return requests
    if limit and other and (limit < 1) == (other < 1):
        return requests * min(limit, _MOST_REQUESTS) / other
    return _guessed_documents(row) * requests / documents


def _guessed(row: Row, size: int, counts: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds that the model needs for a row's requests, by their type.

    `size` is in bytes. A parameter of two bytes takes two operations for each token, so a byte
    takes one; what is generated is bound by reading all weights for each token of a batch.
    """
    given = row.value("batch_size") or 1
    batch = min(given, _MOST_TOKENS) if isinstance(given, int) else _AUTO_BATCH
    shots = min(row.value("n_shot") or 0, _MOST_TOKENS)
    # The backend hf computes on one GPU after the other.
    gpus = min(row.value("tp") or 1, _MOST_TOKENS) if row.value("backend") != "hf" else 1
    # Twice the operations' time for weights of four bytes.
    slowness = 2 if row["dtype"] == "float32" else 1
    token_s = slowness * size / (_OPERATIONS_PER_S * gpus)
    pass_s = max(_PASS_S, size / (_MEMORY_BYTES_PER_S * gpus))
    seconds = {}
    for kind, count in counts.items():
        passes = _new_tokens(row["gen_kwargs"]) if kind == GENERATION else 1
        tokens = _ROLLING_TOKENS if kind == ROLLING else _DOCUMENT_TOKENS * (shots + 1)
        # At least one request: no row is free.
        seconds[kind] = max(count, 1) * (passes * pass_s / batch + tokens * token_s)
    return seconds


@functools.lru_cache(8192)
def _new_tokens(text: str) -> int:
    """Return how many tokens generation arguments let the model write for a request."""
    given = Row({"gen_kwargs": text}).value("gen_kwargs") or {}
    texts = (str(given[name]) for name in _LIMITS_OF_GENERATION if name in given)
    number = next((each for each in texts if re.fullmatch(r"[0-9]{1,18}", each)), _NEW_TOKENS)
    return min(max(1, int(number)), _MOST_TOKENS)
