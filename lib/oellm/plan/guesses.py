"""What a row asks of a model, and a guess of the seconds that this takes.

A guess counts the operations and the memory reads of a model. Its constants are round figures for
one A100 and for usual tasks: they give the proportions between rows, which a plan needs, but no
bill.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from oellm.frameworks.interface import (
    GENERATE_UNTIL,
    LOGLIKELIHOOD,
    LOGLIKELIHOOD_ROLLING,
    count_documents,
)
from oellm.manifest.rows import Row

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
DOCUMENTS = 2000
_REQUESTS_PER_DOCUMENT = 4
# Seconds that every row adds: the task's data, metrics, files.
ROW_S = 2.0
# Seconds to build a model, and bytes per second to read it from a shared file system.
_LOAD_S = 10.0
_LOADED_BYTES_PER_S = 1e9
# Seconds until the first row: the container, and the imports of torch and the framework.
START_S = 60.0
# Numbers in cells are clamped to these.
_MOST_REQUESTS = 10**12
_MOST_TOKENS = 10**6

_LIMITS_OF_GENERATION = (
    *("max_gen_toks", "max_new_tokens", "max_tokens", "max_length_generation"),
)


class Setting(NamedTuple):
    """What two rows must share, besides GPU and size of the model, for their times to compare."""

    eval_suite: str
    task_path: str
    n_shot: int | None
    backend: str
    tp: int


class Factors(NamedTuple):
    """Everything in a row that its time depends on; `size` is that of its model, in bytes."""

    setting: Setting
    size: int
    dtype: str
    limit: int | float | None
    batch_size: int | str
    gen_kwargs: str
    n_docs: int | None
    n_requests: int | None
    request_types: str

    @classmethod
    def of(cls, row: Row, size: int) -> Factors:
        """Return the factors of a row, whose model has a size in bytes."""
        typed = row.typed
        setting = Setting(
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


def guess_load(size: int) -> float:
    """Return the seconds to load a model of a size in bytes."""
    return _LOAD_S + size / _LOADED_BYTES_PER_S


def count_requests(row: Factors) -> Mapping[str, float]:
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


def guess_counts(row: Factors) -> Mapping[str, float]:
    """Return the requests by type of a row whose documents nobody has counted."""
    return {LOGLIKELIHOOD: assume_documents(row.limit) * _REQUESTS_PER_DOCUMENT}


def assume_documents(limit: int | float | None) -> int:
    """Return the documents of a row whose task nobody has counted."""
    is_number = limit is not None and limit >= 1
    # Nobody knows how many documents the task has, so a number of documents counts in full.
    return count_documents(_MOST_REQUESTS if is_number else DOCUMENTS, limit)


def guess_seconds(row: Factors, counts: Mapping[str, float]) -> dict[str, float]:
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
