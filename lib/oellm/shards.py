"""Shards: which array task evaluates which rows."""

from __future__ import annotations

import functools
import heapq
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from oellm.manifest import Row


class ModelKey(NamedTuple):
    """What rows must share to be evaluated on one loaded model; each field is a column of them."""

    eval_suite: str
    model_path: str
    model_revision: str
    backend: str
    dtype: str
    tp: int = 1
    trust_remote_code: bool = False
    # As canonical JSON.
    model_args: str = "{}"


@dataclass(frozen=True)
class Array:
    """One job array: a batch script whose elements differ in nothing but their rows.

    Each element has `workers` workers, the last one maybe fewer; worker W of element E evaluates
    the shard first_shard + E * workers + W.
    """

    script: str
    eval_suite: str
    # GPUs of each worker; 0 where the cluster's jobs have none.
    gpus: int
    workers: int
    elements: int
    first_shard: int
    # As Slurm writes it; empty where jobs have no limit of their own.
    time_limit: str = ""


@dataclass(frozen=True)
class Shard:
    """What one worker evaluates: its place, and how many models and rows that are."""

    index: int
    # Position of its array in the run, and the element of that.
    array: int
    element: int
    models: int
    rows: int
    # With start-up and model loads.
    estimate_s: float


def model_key(row: Row) -> ModelKey:
    """Return what the row's model is loaded by; the row is a checked one."""
    return _model_key(*map(row.cells.get, ModelKey._fields))


@functools.lru_cache(8192)
def _model_key(*texts: str | None) -> ModelKey:
    """Return the key of a row with these texts, in the order of the key's fields."""
    cells = dict(zip(ModelKey._fields, (text or "" for text in texts), strict=True))
    row = Row(cells)
    return ModelKey(
        row.value("eval_suite"),
        str(row.model),
        row["model_revision"],
        row.value("backend"),
        row["dtype"],
        row.value("tp") or 1,
        bool(row.value("trust_remote_code")),
        json.dumps(row.value("model_args") or {}, sort_keys=True),
    )


def plan(
    rows_of: Mapping[ModelKey, int], most: int
) -> tuple[list[Array], list[Shard], dict[ModelKey, int]]:
    """Return the arrays, the shards, and the shard of each model.

    One shard for each model; where that gives more than `most`, models of one framework share
    shards, packed longest-first by number of rows. Each framework has at least one shard. The
    result depends on the order and the counts of `rows_of` alone.
    """
    total = sum(rows_of.values())
    models_of: dict[str, list[ModelKey]] = {}
    for key in rows_of:
        models_of.setdefault(key.eval_suite, []).append(key)
    bin_of: dict[ModelKey, tuple[str, int]] = {}
    for suite, models in models_of.items():
        share = max(1, most * sum(rows_of[key] for key in models) // total)
        bins = [(0, number) for number in range(min(len(models), share))]
        # The sort is stable, so equal models keep their order.
        for key in sorted(models, key=lambda key: -rows_of[key]):
            rows, number = heapq.heappop(bins)
            bin_of[key] = (suite, number)
            heapq.heappush(bins, (rows + rows_of[key], number))
    # Shards are numbered in the order in which their first models appear, suite after suite.
    members: dict[tuple[str, int], list[ModelKey]] = {}
    for keys in models_of.values():
        for key in keys:
            members.setdefault(bin_of[key], []).append(key)
    arrays: list[Array] = []
    shards: list[Shard] = []
    shard_of: dict[ModelKey, int] = {}
    for position, suite in enumerate(models_of):
        mine = [keys for (owner, _), keys in members.items() if owner == suite]
        script = "submit_evals.sbatch" if not position else f"submit_evals-{suite}.sbatch"
        arrays.append(Array(script, suite, 1, 1, len(mine), len(shards)))
        for element, keys in enumerate(mine):
            rows = sum(rows_of[key] for key in keys)
            shard_of.update(dict.fromkeys(keys, len(shards)))
            shards.append(Shard(len(shards), position, element, len(keys), rows, 0.0))
    return arrays, shards, shard_of
