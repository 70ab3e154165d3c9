"""Result files of lm-eval, up to version 0.4.13: written by itself or by oe-run-task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oellm.core.json_codec import is_finite
from oellm.frameworks.interface import (
    GENERATE_UNTIL,
    LOGLIKELIHOOD,
    LOGLIKELIHOOD_ROLLING,
)
from oellm.frameworks.lm_eval.groups import Groups
from oellm.frameworks.lm_eval.metrics import is_metric, normalise_metrics, task_states
from oellm.frameworks.lm_eval.native import version_0_3
from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading.harness_row import read_shared_row
from oellm.frameworks.reading.values import (
    Object,
    describe_value,
    get_object,
    get_objects,
    is_count,
)
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.runs.environment import TaskState

# The type of requests of each type of tasks, as the tasks' configurations name them.
_REQUEST_TYPES = {
    "multiple_choice": LOGLIKELIHOOD,
    "loglikelihood": LOGLIKELIHOOD,
    "loglikelihood_rolling": LOGLIKELIHOOD_ROLLING,
    "generate_until": GENERATE_UNTIL,
}


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return one row for each group that is in no other group, and each task that is in no group.

    Returns None if the document is no result of lm-eval. Raises ValueError if it is damaged.
    """
    if not _is_ours(document):
        return None
    results = get_objects(document, "results")
    if version_0_3.is_old(document, results):
        document = version_0_3.upgrade(document, results)
        results = document["results"]
    native = _check_types(document, results)
    shared = read_shared_row(native, path)
    version = native.get("lm_eval_version")
    shared = shared._replace(
        notes=tuple(_unknown_shots(document, native)),
        environment=shared.environment._replace(
            framework_version=version if isinstance(version, str) else ""
        ),
    )
    groups = Groups(native)
    parts = (_restrict_to(root, native, groups) for root in groups.top(results))
    rows = [_read_part(part, results, shared) for part in parts]
    return [row for row in rows if row.scores or row.remarks or len(row.notes) > len(shared.notes)]


def _is_ours(document: Object) -> bool:
    """Return whether a document looks like a result of lm-eval, or of a tool that runs it."""
    results = document.get("results")
    if "results" not in document or {"config", "configs", "n-shot"} & document.keys():
        return "results" in document
    # Tools that ran lm-eval 0.2 and 0.3 kept only these two keys.
    return (
        isinstance(results, dict)
        and bool(results)
        and document.keys() == {"results", "versions"}
        and all(isinstance(values, dict) for values in results.values())
    )


def _read_part(part: Object, results: Mapping[str, Object], shared: ScoredRow) -> ScoredRow:
    """Return the scores of one task or group that was asked for; `shared` has what all rows share.

    There are neither scores nor remarks if it was only predicted, or has no metrics.
    """
    scores = normalise_metrics(part, part["asked"])
    chosen = _chosen_documents(part)
    cells = {
        "eval_suite": "lm_eval",
        "task_path": part["asked"],
        "n_shot": native_cells.format_shared_shots(scores),
        # No row of a manifest has this column, so none takes such a result for its own.
        "documents": "chosen" if chosen else "",
    }
    notes = (*(f"{task}: {text}" for task, text in chosen.items()), *_predicted(part))
    return shared._replace(
        row=native_cells.make_row({**shared.row.cells, **cells}),
        scores=scores,
        remarks=(*_non_finite_remarks(results, part), *_incomplete_remarks(part, scores)),
        notes=(*shared.notes, *notes),
        tasks=_states(results, part, chosen),
    )


def request_types(native: Mapping[str, Any]) -> frozenset[str]:
    """Return the types of the requests behind a native result.

    The empty text stands for tasks whose configuration does not tell it. Raises AttributeError if
    the result is damaged.
    """
    configs = native.get("configs", {}).values()
    return frozenset(_REQUEST_TYPES.get(config.get("output_type", ""), "") for config in configs)


def _check_types(document: Object, results: dict[str, Object]) -> Object:
    """Return the needed parts of a result, with checked types and only finite metrics."""
    members = document.get("group_subtasks")
    if members is not None:
        members = get_object(document, "group_subtasks")
        for name, names in members.items():
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"group_subtasks: {name}: expected a list of names")
    shots = get_object(document, "n-shot")
    counts = get_objects(document, "n-samples")
    configs = get_objects(document, "configs")
    for config in configs.values():
        entries = config.get("metric_list") or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ValueError("configs: metric_list: expected a list of objects")
    return {
        **document,
        "results": {task: _only_finite(values) for task, values in results.items()},
        "groups": get_objects(document, "groups"),
        "group_subtasks": members,
        "n-shot": {task: shots[task] for task in shots if is_count(shots[task])},
        "n-samples": {
            task: count for task, count in counts.items() if is_count(count.get("effective"))
        },
        "higher_is_better": get_objects(document, "higher_is_better"),
        "configs": configs,
        "versions": get_object(document, "versions"),
        "task_hashes": get_object(document, "task_hashes"),
        "config": get_object(document, "config"),
    }


def _only_finite(values: Object) -> Object:
    return {key: v for key, v in values.items() if not is_metric(key) or is_finite(v)}


def _restrict_to(root: str, native: Object, groups: Groups) -> Object:
    """Return the result as if only one task or group had been asked for."""
    names = groups.reachable(root)
    return {
        **native,
        "asked": root,
        "results": {task: v for task, v in native["results"].items() if task in names},
        "group_subtasks": {name: groups.members[name] for name in names if name in groups.members},
    }


def _states(
    results: Mapping[str, Object], part: Object, chosen: Mapping[str, str]
) -> dict[str, TaskState]:
    """Return the states of the tasks of a part; remarks say what their scores lack."""
    states = {}
    for task, state in task_states(part).items():
        lacking = [f"{name} is {value}" for name, value in _non_finite(results.get(task, {}))]
        remark = "; ".join([*lacking, *([chosen[task]] if task in chosen else [])])
        states[task] = state._replace(remark=remark)
    return states


def _non_finite_remarks(results: Mapping[str, Object], part: Object) -> Iterator[str]:
    """Yield a remark for each value in a part that is no finite number."""
    for task in part["results"]:
        for metric, value in _non_finite(results[task]):
            yield f"{metric} of {task} is {value}"


def _non_finite(values: Object) -> Iterator[tuple[str, str]]:
    """Yield the metrics of a task that are no finite numbers, and what they are."""
    for key, value in values.items():
        if is_metric(key) and not is_finite(value):
            yield key.partition(",")[0], describe_value(value)


def _incomplete_remarks(part: Object, scores: list[MetricScore]) -> Iterator[str]:
    """Yield a remark for each group value that is left out because tasks have no score."""
    kept = {(score.task, f"{score.metric},{score.filter}") for score in scores}
    for group in part["group_subtasks"]:
        for key in part["results"].get(group, {}):
            if is_metric(key) and (group, key) not in kept:
                yield f"{key.partition(',')[0]} of {group} is left out: some of its tasks have none"


def _chosen_documents(part: Object) -> dict[str, str]:
    """Return a text for each task of which only chosen documents were evaluated (--samples)."""
    if part["config"].get("limit") is not None:
        return {}
    return {
        task: f"{count['effective']} chosen documents of {count['original']} were evaluated"
        for task, count in part["n-samples"].items()
        if task in part["results"]
        and is_count(count.get("original"))
        and count["effective"] < count["original"]
    }


def _predicted(part: Object) -> list[str]:
    """Return a note for each task that was predicted, but not scored (--predict_only)."""
    return [
        f"{task} was predicted, not scored"
        for task, values in part["results"].items()
        if any(key.startswith("bypass,") for key in values) and not any(map(is_metric, values))
    ]


def _unknown_shots(document: Object, part: Object) -> list[str]:
    """Return a note if a result of lm-eval 0.3 has another number of shots than of tasks."""
    shots = part["config"].get("num_fewshot")
    if (
        "configs" in document
        or not isinstance(shots, list)
        or len(shots) in (1, len(document["results"]))
    ):
        return []
    return [
        f"the shots are unknown: num_fewshot has {len(shots)} for {len(document['results'])} tasks"
    ]
