"""Reads the results of evalchemy: results_*.json.

Evalchemy is lm-eval with benchmarks of its own, whose metrics have no filter (`accuracy_avg`, and
`accuracy_std_err` beside it: over the repetitions, not over the problems). A file may also have
metrics of tasks of lm-eval, `acc,none`. The shots are in no file: benchmarks have none, but for
those that bring their own examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oellm.core.json_codec import is_finite
from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading.harness_row import read_shared_row
from oellm.frameworks.reading.values import (
    Object,
    describe_value,
    get_object,
    get_objects,
    is_count,
)
from oellm.manifest.cells import read_cell
from oellm.metrics.scored_rows import MetricScore, ScoredRow

# Keys of a benchmark's result that only evalchemy writes.
_MARKS = frozenset({"accuracy_avg", "run_stats", "num_repeat", "num_total", "num_solved"})
_COUNTS = ("num_total", "num_repeat")
_NO_METRICS = (*_COUNTS, "alias", "name", "sample_len", "language")
# The ending of a mean over repetitions.
_MEAN = "_avg"
# Benchmarks whose prompts have no examples.
_ZERO_SHOT = frozenset(
    {
        "AIME24",
        "AIME25",
        "AMC23",
        "AlpacaEval",
        "GPQADiamond",
        "HMMT",
        "HumanEval",
        "IFEval",
        "JEEBench",
        "LiveCodeBench",
        "LiveCodeBenchv5",
        "MATH500",
        "MTBench",
    }
)


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return one row for each benchmark.

    Returns None if the document is no result of evalchemy. Raises ValueError if it is damaged.
    """
    if "config" not in document or not isinstance(document.get("results"), dict):
        return None
    config = get_object(document, "config")
    if "annotator_model" not in config and not _has_benchmark(document["results"]):
        return None
    results = get_objects(document, "results")
    shared = read_shared_row({**document, "config": config}, path)
    cells = shared.row.cells
    found = []
    for task, values in results.items():
        scores = list(_scores(task, values))
        remarks = tuple(_left_out(task, values))
        if scores or remarks:
            own = {"eval_suite": "evalchemy", "task_path": task}
            own["n_shot"] = native_cells.format_shared_shots(scores)
            if (repeated := values.get("num_repeat")) and is_count(repeated):
                own["gen_kwargs"] = _with_repetitions(cells["gen_kwargs"], repeated)
            row = native_cells.make_row({**cells, **own})
            found.append(shared._replace(row=row, scores=scores, remarks=remarks))
    return found


def _has_benchmark(results: Mapping[str, Any]) -> bool:
    return any(isinstance(values, dict) and _MARKS & values.keys() for values in results.values())


def _scores(task: str, values: Mapping[str, Any]) -> Iterator[MetricScore]:
    """Yield the metrics of a benchmark; accuracies come first, since the first one is primary."""
    n_samples = values.get("num_total")
    names = sorted(_metrics(values), key=lambda name: not name.startswith("accuracy"))
    for key in names:
        if not is_finite(values[key]) or n_samples == 0:
            continue
        name, _, filter_name = key.partition(",")
        stderr = values.get(_error_key(key))
        yield MetricScore(
            task=task,
            group="",
            n_shot=0 if task in _ZERO_SHOT else None,
            metric=name,
            filter=filter_name or "none",
            value=values[key],
            stderr=stderr if is_finite(stderr) else None,
            higher_is_better=True
            if name.startswith(("accuracy", "solved", "num_solved"))
            else None,
            n_samples=n_samples if is_count(n_samples) else None,
            aggregate="",
        )


def _metrics(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of metrics: numbers, and what should be one."""
    for key, value in values.items():
        name = key.partition(",")[0]
        is_error = name.endswith(("_stderr", "_std_err", "_std"))
        is_number = value is None or (
            isinstance(value, (int, float)) and not isinstance(value, bool)
        )
        if is_number and not is_error and name not in _NO_METRICS:
            yield key


def _error_key(key: str) -> str:
    """Return the key of a metric's standard error: of accuracy_avg, accuracy_std_err."""
    name, comma, filter_name = key.partition(",")
    if comma:
        return f"{name}_stderr,{filter_name}"
    return f"{name.removesuffix(_MEAN)}_std_err"


def _left_out(task: str, values: Mapping[str, Any]) -> Iterator[str]:
    for key in _metrics(values):
        if values.get("num_total") == 0:
            yield f"{key} of {task} is over no problem"
        elif not is_finite(values[key]):
            yield f"{key} of {task} is {describe_value(values[key])}"


def _with_repetitions(gen_kwargs: str, number: int) -> str:
    """Return the arguments of generation with the number of answers to each problem."""
    arguments = read_cell("gen_kwargs", gen_kwargs).value or {}
    return native_cells.format_arguments({**arguments, "n_samples": number})
