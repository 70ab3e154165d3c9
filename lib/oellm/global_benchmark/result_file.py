"""The results of a run in the form of Global Benchmarks: results/UUID.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from oellm import frameworks
from oellm.core import json_codec
from oellm.core.atomic import write_file
from oellm.errors import InputError
from oellm.global_benchmark.benchmark_tasks import MODEL, SETTINGS, TASK
from oellm.metrics.records import DERIVED, MetricRecord


def results_of(records: Sequence[MetricRecord]) -> dict[str, Any]:
    """Return `{"model": …, TASK: [{METRIC: value, …, "temperature": …}, …]}` of a run's records.

    A task has an entry for each of its rows. If the framework's task is a group, the entry is the
    group's own; if it has none, each member has an entry, with its name under `task`. Raises
    InputError for records that are not of one run of ours; there is at least one.
    """
    rows_by_task = _by_task(records)
    results: dict[str, Any] = {"model": records[0].extra[MODEL]}
    for name, rows in rows_by_task.items():
        results[name] = [entry for row in rows for entry in _entries(row)]
    return results


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the file of results atomically."""
    write_file(path, json_codec.dumps(results, indent=True) + b"\n")


def _by_task(records: Iterable[MetricRecord]) -> dict[str, list[list[MetricRecord]]]:
    """Return the records of each row, by the task of Global Benchmarks."""
    found: dict[str, dict[str, list[MetricRecord]]] = {}
    for record in records:
        for column in (MODEL, TASK, SETTINGS):
            if column not in record.extra:
                raise InputError(f"no run of global-benchmark: the column {column} is missing")
        rows = found.setdefault(record.extra[TASK], {})
        rows.setdefault(record.eval_id, []).append(record)
    return {name: list(rows.values()) for name, rows in found.items()}


def _entries(row: list[MetricRecord]) -> Iterable[dict[str, Any]]:
    """Yield what the file has of a row."""
    settings = json_codec.loads(row[0].extra[SETTINGS].encode())
    by_task: dict[str, dict[str, Any]] = {}
    groups = {record.group for record in row if record.group}
    for record in row:
        if record.aggregate != DERIVED:
            by_task.setdefault(record.task, {}).update(_metric(record))
    of_all = [task for task in by_task if task in groups] or list(by_task)
    for task in of_all:
        named = {"task": task} if len(of_all) > 1 else {}
        yield {**named, **by_task[task], **settings}


def _metric(record: MetricRecord) -> dict[str, float]:
    """Return a score under the name that its framework gives it, with its error if that has one."""
    if not frameworks.find_harness(record.eval_suite).has_filters:
        choice = "" if record.filter == "none" else record.filter
        return {f"{record.metric},{choice}" if choice else record.metric: record.value}
    found = {f"{record.metric},{record.filter}": record.value}
    if record.stderr is not None:
        found[f"{record.metric}_stderr,{record.filter}"] = record.stderr
    return found
