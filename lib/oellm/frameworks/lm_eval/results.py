"""lm-evaluation-harness: reading its results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from oellm.manifest import Row

_NO_METRICS = ("alias", "name", "sample_len", "sample_count", "bypass")


def metrics(native: dict[str, Any], requested: str) -> list[dict[str, Any]]:
    """Return the normalised metrics of a result of lm-eval 0.4.3 or later.

    Each has task, group, n_shot, metric, filter, value, stderr, higher_is_better and n_samples
    (schema.json, table `metric`). `requested` is the task, group or tag that was asked for.
    """
    found = []
    for task, values in native["results"].items():
        leaves = list(_leaves(native, task))
        shots = {native["n-shot"][leaf] for leaf in leaves if leaf in native["n-shot"]}
        n_shot = shots.pop() if len(shots) == 1 else None
        counted = [native["n-samples"][leaf] for leaf in leaves if leaf in native["n-samples"]]
        for key, value in values.items():
            name, _, filter_name = key.partition(",")
            if name in _NO_METRICS or name.endswith("_stderr") or not _is_number(value):
                continue
            stderr = values.get(f"{name}_stderr,{filter_name}")
            direction = native["higher_is_better"].get(task, {}).get(name)
            found.append(
                {
                    "task": task,
                    "group": "" if len(native["results"]) == 1 or task == requested else requested,
                    "n_shot": n_shot,
                    "metric": name,
                    "filter": filter_name,
                    "value": value,
                    "stderr": stderr if _is_number(stderr) and math.isfinite(stderr) else None,
                    "higher_is_better": direction,
                    "n_samples": sum(int(count["effective"]) for count in counted)
                    if counted
                    else None,
                }
            )
    return found


def _leaves(native: dict[str, Any], task: str) -> Iterator[str]:
    """Yield the tasks of a group, through its subgroups; the task itself where it is no group."""
    members = native.get("group_subtasks", {}).get(task)
    if not members:
        yield task
    for member in members or []:
        yield from _leaves(native, member)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def task_hashes(samples: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return the digest over documents, prompts and targets that lm-eval writes for each task."""
    from lm_eval.utils import hash_string

    return {
        task: hash_string(
            "".join(doc["doc_hash"] + doc["prompt_hash"] + doc["target_hash"] for doc in documents)
        )
        for task, documents in samples.items()
    }


def remarks(native: dict[str, Any], row: Row) -> list[str]:
    """Return what to know about the scores: shots that are fixed, documents without a value."""
    asked = row.value("n_shot")
    fixed = [
        f"{task} fixes its shots: {used} were used, {asked} were asked for"
        for task, used in native["n-shot"].items()
        if asked is not None and used != asked
    ]
    scored = _documents(native, row)
    return fixed + [
        f"{task} has a metric for only {count['effective']} of {scored[task]} documents"
        for task, count in native["n-samples"].items()
        if int(count["effective"]) < scored[task]
    ]


def require_complete(
    native: Mapping[str, Any], samples: Mapping[str, list[dict[str, Any]]], row: Row
) -> None:
    """Raise ValueError where a task was not scored on as many documents as the row asks for."""
    for task, expected in _documents(native, row).items():
        scored = len({sample["doc_id"] for sample in samples.get(task, [])})
        if scored != expected:
            raise ValueError(f"{task}: {scored} documents were scored, {expected} were asked for")


def _documents(native: Mapping[str, Any], row: Row) -> dict[str, int]:
    """Return for each task how many documents the row asks for."""
    limit = row.value("limit")
    found = {}
    for task, count in native["n-samples"].items():
        found[task] = original = int(count["original"])
        if limit is not None:
            asked = math.ceil(original * limit) if limit < 1 else int(limit)
            found[task] = min(original, asked)
    return found
