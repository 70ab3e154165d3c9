"""Comparing two sets of metric records, A and B: what changed, and whether that is noise."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from oellm.collect import significance
from oellm.collect.samples import RowScores, Values
from oellm.core import fork_pool, schema
from oellm.errors import InputError, OellmError
from oellm.metrics.records import PARTIAL

Record = dict[str, Any]
_Pair = tuple[Record, Record]

# Values of the column `method`, and of `verdict`.
PAIRED, INDEPENDENT = "paired", "independent"
BETTER, WORSE, SAME, DIFFERENT, UNKNOWN = "better", "worse", "same", "different", "unknown"

# Records that a message names.
_MOST_NAMED = 3
# Others work on a login node, too.
_ROWS_AT_ONCE = 8


class Comparison(NamedTuple):
    """Comparison records (schema.json, table `comparison`), and what else is to be told."""

    records: list[Record]
    # One text each, without line ends: what only one side has, and the comparison as a whole.
    messages: list[str]


def columns() -> list[str]:
    """Return the columns of a comparison record, in order."""
    return list(schema.table("comparison"))


def shown_columns() -> list[str]:
    """Return the columns that a table for people has."""
    return [name for name, spec in schema.table("comparison").items() if spec.get("shown")]


def compared(
    records_a: Iterable[Record], records_b: Iterable[Record], every: bool = False
) -> Comparison:
    """Compare metric records of the same task and metric, in the order of A.

    Primary metrics, or with `every` all. Reads the samples of both sides where they are, row by
    row. Raises InputError where a side is empty or ambiguous (comparison_pairs.paired).
    """
    pairs = paired(records_a, records_b, every)
    rows = [list(of_rows) for _, of_rows in itertools.groupby(pairs.both, _rows)]
    found = [record for records in _all_compared(rows) for record in records]
    tested = [record for record in found if record["p_value"] is not None]
    adjusted = significance.holm([record["p_value"] for record in tested])
    for record, p_value in zip(tested, adjusted, strict=True):
        record["p_holm"] = p_value
    return Comparison(found, [*_left_out(pairs), _summary(found, tested)])


def _rows(pair: _Pair) -> list[tuple[str, str]]:
    """Return which row of A and of B two records are from: rows have samples files of their own."""
    return [(record["run_dir"], record["eval_id"]) for record in pair]


def _all_compared(rows: list[list[_Pair]]) -> list[list[Record]]:
    """Compare row by row, several rows at a time: parsing samples takes most of the time."""
    if len(rows) == 1:
        return [_compared_row(rows[0])]
    at_once = min(_ROWS_AT_ONCE, len(os.sched_getaffinity(0)))
    found: dict[int, list[Record]] = {}
    for (place, _), records in fork_pool.run(_compared_item, enumerate(rows), at_once):
        if isinstance(records, fork_pool.Crash):
            raise OellmError(f"{rows[place][0][0]['task']} cannot be compared: {records}")
        found[place] = records
    return [found[place] for place in range(len(rows))]


def _compared_item(item: tuple[int, list[_Pair]]) -> list[Record]:
    return _compared_row(item[1])


def _compared_row(pairs: list[_Pair]) -> list[Record]:
    found = []
    scores = RowScores([a for a, _ in pairs]), RowScores([b for _, b in pairs])
    for a, b in pairs:
        values, remark = _values(scores[0].of(a), scores[1].of(b))
        difference, method, n_samples = _difference(a, b, values)
        record = {
            **{column: a[column] for column in COMMON},
            "model_a": a["model_path"],
            "model_b": b["model_path"],
            "value_a": a["value"],
            "value_b": b["value"],
            "difference": difference.value,
            "stderr": difference.stderr,
            "method": method,
            "n_samples": n_samples,
            "p_value": difference.p_value,
            "verdict": _verdict(difference, a["higher_is_better"], b["higher_is_better"]),
            "remark": remark,
        }
        found.append({column: record.get(column) for column in columns()})
    return found


def _difference(
    a: Record, b: Record, values: tuple[list[float], list[float]] | None
) -> tuple[significance.Difference, str, int | None]:
    """Return the difference, the method that its noise is known by, and how many documents."""
    counts = a["n_samples"], b["n_samples"]
    if values:
        found = significance.paired(*values)
        if found.stderr is not None:
            return found, PAIRED, len(values[0])
    found = significance.independent(b["value"] - a["value"], (a["stderr"], b["stderr"]), counts)
    method = "" if found.stderr is None else INDEPENDENT
    return found, method, counts[0] if counts[0] == counts[1] else None


def _values(
    of_a: tuple[Values, str], of_b: tuple[Values, str]
) -> tuple[tuple[list[float], list[float]] | None, str]:
    """Return the values of both sides, document by document, or why there are none."""
    (a, why_not_a), (b, why_not_b) = of_a, of_b
    if a and b:
        if a.keys() == b.keys():
            return (list(a.values()), [b[document] for document in a]), ""
        return None, (
            f"{len(a.keys() - b.keys())} of {len(a)} documents only in A, "
            f"{len(b.keys() - a.keys())} of {len(b)} only in B"
        )
    # The same of both, or nothing: that neither has kept its samples is usual.
    if not a and not b and why_not_a == why_not_b:
        return None, why_not_a
    reasons = (("A", a, why_not_a), ("B", b, why_not_b))
    return None, "; ".join(
        f"{name}: {why_not or 'no samples'}" for name, values, why_not in reasons if not values
    )


def _verdict(
    difference: significance.Difference, direction_a: bool | None, direction_b: bool | None
) -> str:
    if difference.p_value is None:
        return UNKNOWN
    if difference.p_value >= significance.LEVEL:
        return SAME
    if direction_a is None or direction_a != direction_b:
        return DIFFERENT
    return BETTER if (difference.value > 0) == direction_a else WORSE


def _left_out(pairs: Pairs) -> Iterator[str]:
    for name, records in (("A", pairs.only_a), ("B", pairs.only_b)):
        if records:
            named = [described(record) for record in records[:_MOST_NAMED]]
            more = ["…"] if len(records) > _MOST_NAMED else []
            yield f"not compared, {len(records)} only in {name}: {'; '.join(named + more)}"
    if pairs.partial:
        yield f"not compared, {pairs.partial} partial: nothing tells which members they are of"


def _summary(found: list[Record], tested: list[Record]) -> str:
    if not found:
        return "A and B have no metric of the same task, shots and limit"
    level = significance.LEVEL
    beyond = sum(record["p_value"] < level for record in tested)
    holding = sum(record["p_holm"] < level for record in tested)
    unknown = len(found) - len(tested)
    return (
        f"{beyond} of {len(tested)} differences are beyond noise at {level * 100:g} %, where "
        f"chance alone gives up to {len(tested) * level:.3g}; after Holm's correction {holding}"
        + (f"; {unknown} of unknown noise" if unknown else "")
    )


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
