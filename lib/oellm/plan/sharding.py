"""Shards: which worker of which job array evaluates which rows."""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from oellm.manifest.rows import Row
from oellm.plan.array_sizes import Group, Room, element_shares, group_packing
from oellm.plan.packing_types import ModelRows, Packing, longest_first

__all__ = ["Array", "ModelKey", "Plan", "Room", "Shard", "Work", "model_key", "plan"]


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


class Work(NamedTuple):
    """The rows of one model: what loading it takes, and each row, in the manifest's order."""

    key: ModelKey
    load_s: float
    rows: Sequence[float]


class Plan(NamedTuple):
    """Where each row is evaluated; `shard_of` has, for each Work, the shard of each row."""

    arrays: list[Array]
    shards: list[Shard]
    shard_of: list[array[int]]


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


def plan(work: Sequence[Work], room: Room, workers: Callable[[int], int]) -> Plan:
    """Return the arrays, the shards and the shard of each row.

    There is one array for each framework and each number of GPUs, in the order in which they
    appear; `workers` says how many workers an element has, given a worker's number of GPUs. The
    result depends on the values of `work` and their order alone. Times are finite and not below 0;
    each model has a row at least.
    """
    numbers_of: dict[tuple[str, int], list[int]] = {}
    for number, (key, _, _) in enumerate(work):
        numbers_of.setdefault((key.eval_suite, key.tp), []).append(number)
    models = [ModelRows.of(load_s, rows) for _, load_s, rows in work]
    groups = [
        Group([models[number] for number in numbers], workers(tp))
        for (_, tp), numbers in numbers_of.items()
    ]
    shares = element_shares(groups, room)
    result = Plan([], [], [array("i") for _ in work])
    for (suite, tp), group, share in zip(numbers_of, groups, shares, strict=True):
        packing = longest_first(group_packing(group, room, share))
        _add(result, (suite, tp), group, packing, room.start_s)
        first = result.arrays[-1].first_shard
        for number, place in zip(numbers_of[suite, tp], packing.places, strict=True):
            result.shard_of[number] = array("i", (first + shard for shard in place))
    return result


def _add(
    result: Plan, kind: tuple[str, int], group: Group, packing: Packing, start_s: float
) -> None:
    """Add the array of a group, and its shards, to the plan; `kind` is their framework and GPUs."""
    suite, tp = kind
    count, first = len(packing.times), len(result.shards)
    position = len(result.arrays)
    name = f"submit_evals-{suite}-tp{tp}.sbatch" if position else "submit_evals.sbatch"
    elements = -(-count // group.workers)
    result.arrays.append(Array(name, suite, tp, group.workers, elements, first))
    models, rows, seconds = [0] * count, [0] * count, [start_s] * count
    for model, place in zip(group.models, packing.places, strict=True):
        for shard in sorted(set(place)):
            models[shard] += 1
            seconds[shard] += model.load_s
        for row_s, shard in zip(model.rows, place, strict=True):
            rows[shard] += 1
            seconds[shard] += row_s
    for shard in range(count):
        element = shard // group.workers
        result.shards.append(
            Shard(first + shard, position, element, models[shard], rows[shard], seconds[shard])
        )
