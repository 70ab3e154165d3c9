"""Which metric records of two sides, A and B, belong together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from oellm.errors import InputError
from oellm.metrics.records import PARTIAL

Record = dict[str, Any]
_Key = tuple[Any, ...]

# What two records have in common that are compared.
COMMON = ("task", "group", "n_shot", "limit", "eval_suite", "metric", "filter")
# What says nothing about why a side has two records.
_SCORES = ("value", "stderr", "n_samples", "finished", "is_primary")


class Pairs(NamedTuple):
    """Records that belong together, in the order of A, and those that belong to none."""

    both: list[tuple[Record, Record]]
    only_a: list[Record]
    only_b: list[Record]
    # Aggregates of some members: which ones, nothing tells.
    partial: int


def paired(records_a: Iterable[Record], records_b: Iterable[Record], every: bool) -> Pairs:
    """Match records by COMMON and the model; a single model of A with a single one of B.

    Without `every` only metrics that stand for their task on at least one side. Raises InputError
    where a side has no records, or two that match the same, or where models cannot be matched.
    """
    all_a, all_b = list(records_a), list(records_b)
    columns = COMMON if _is_one_each(all_a, all_b) else (*COMMON, "model_path")
    of_a, of_b = _by_key(all_a, columns, "A"), _by_key(all_b, columns, "B")
    both = [(a, of_b[key]) for key, a in of_a.items() if key in of_b]
    if not every:
        both = [(a, b) for a, b in both if a["is_primary"] or b["is_primary"]]
    return Pairs(
        both,
        [a for key, a in of_a.items() if key not in of_b and (every or a["is_primary"])],
        [b for key, b in of_b.items() if key not in of_a and (every or b["is_primary"])],
        sum(record["aggregate"] == PARTIAL for record in (*all_a, *all_b)),
    )


def described(record: Record) -> str:
    """Return what a record is of, in words for people."""
    settings = [
        f"{name}={record[name]}" for name in ("n_shot", "limit") if record[name] is not None
    ]
    metric = f"{record['metric']},{record['filter']}"
    return " ".join([record["model_path"], record["task"], metric, *settings])


def _is_one_each(all_a: list[Record], all_b: list[Record]) -> bool:
    """Return whether both sides have one model; raises InputError where models do not match."""
    models_a, models_b = ({record["model_path"] for record in side} for side in (all_a, all_b))
    for side, models in (("A", models_a), ("B", models_b)):
        if not models:
            raise InputError("expected metric records, got none", side)
    if len(models_a) == len(models_b) == 1:
        return True
    if models_a.isdisjoint(models_b):
        raise InputError(
            f"expected a model that A and B share, or one in each; A has {len(models_a)}, B has "
            f"{len(models_b)}: choose with --filter_a model_path=… and --filter_b model_path=…"
        )
    return False


def _by_key(records: list[Record], columns: tuple[str, ...], side: str) -> dict[_Key, Record]:
    found: dict[_Key, Record] = {}
    for record in records:
        if record["aggregate"] == PARTIAL:
            continue
        other = found.setdefault(tuple(record[column] for column in columns), record)
        if other is not record:
            names = [c for c in record if c not in _SCORES and record[c] != other[c]]
            raise InputError(
                f"expected {described(record)} once, got it twice, with different "
                f"{', '.join(names) or 'scores'}: choose with --filter_{side.lower()}",
                side,
            )
    return found
