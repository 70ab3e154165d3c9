"""Shards: which array task evaluates which rows."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from oellm.manifest import Row


@dataclass(frozen=True)
class ModelKey:
    """What rows must share to be evaluated on one loaded model."""

    eval_suite: str
    model_path: str
    model_revision: str
    backend: str
    dtype: str


@dataclass(frozen=True)
class Shard:
    """One array task: its index, its framework, and how many models and rows it evaluates."""

    index: int
    eval_suite: str
    models: int
    rows: int


def model_key(row: Row) -> ModelKey:
    """Return what the row's model is loaded by."""
    return ModelKey(
        row.value("eval_suite"),
        str(row.model),
        row["model_revision"],
        row.value("backend"),
        row["dtype"],
    )


def plan(rows_of: Mapping[ModelKey, int], most: int) -> tuple[list[Shard], dict[ModelKey, int]]:
    """Return the shards, and the shard of each model.

    One shard for each model; where that gives more than `most`, models of one framework share
    shards, packed longest-first by number of rows. Each framework has at least one shard. The
    result depends on the order and the counts of `rows_of` alone.
    """
    total = sum(rows_of.values())
    bin_of: dict[ModelKey, tuple[str, int]] = {}
    for suite in dict.fromkeys(key.eval_suite for key in rows_of):
        models = [key for key in rows_of if key.eval_suite == suite]
        share = max(1, most * sum(rows_of[key] for key in models) // total)
        bins = [(0, number) for number in range(min(len(models), share))]
        # The sort is stable, so equal models keep their order.
        for key in sorted(models, key=lambda key: -rows_of[key]):
            rows, number = heapq.heappop(bins)
            bin_of[key] = (suite, number)
            heapq.heappush(bins, (rows + rows_of[key], number))
    index_of: dict[tuple[str, int], int] = {}
    for key in rows_of:
        index_of.setdefault(bin_of[key], len(index_of))
    assignment = {key: index_of[bin_of[key]] for key in rows_of}
    shards = []
    for (suite, _), index in index_of.items():
        members = [key for key in rows_of if assignment[key] == index]
        shards.append(Shard(index, suite, len(members), sum(rows_of[key] for key in members)))
    return shards, assignment
