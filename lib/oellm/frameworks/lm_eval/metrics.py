"""The scores in a native result of lm-eval, in normalised form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.core.json_codec import is_finite
from oellm.frameworks.interface import count_documents
from oellm.frameworks.lm_eval.groups import (
    Aggregate,
    Groups,
    MetricKey,
    TaskScore,
    aggregate_scores,
)
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import MetricScore
from oellm.runs.environment import TaskState

_NO_METRICS = ("alias", "name", "samples", "sample_len", "sample_count", "bypass")


def normalise_metrics(native: dict[str, Any], requested: str) -> list[MetricScore]:
    """Return the scores in a result of lm-eval 0.4.0 or later.

    `requested` is the task, group or tag that was asked for. lm-eval has no score for a tag; it
    gets a computed one, like a group without a score.
    """
    groups = Groups(native)
    tops = groups.top(native["results"])
    # If a group's file was asked for, `requested` is its path and not its name.
    root = tops[0] if len(tops) == 1 else requested
    if root not in tops:
        groups.members[root] = tops
    facts = _LeafFacts(native)
    of_tasks = {task: dict(_scores(values)) for task, values in native["results"].items()}
    finite = {task: _finite(scores) for task, scores in of_tasks.items()}
    normalised = []
    for task in dict.fromkeys([*native["results"], *groups.members]):
        group = "" if task == root else root
        if task in groups.members:
            leaves = groups.leaves(task)
            whole = aggregate_scores(
                finite.get(task, {}), leaves, leaf_scores=finite, n_docs=facts.n_docs
            )
        else:
            whole = {key: Aggregate(score, "", [task]) for key, score in of_tasks[task].items()}
        for (metric, filter_name), made in whole.items():
            normalised.append(
                MetricScore(
                    task=task,
                    group=group,
                    n_shot=facts.n_shot(made.leaves),
                    metric=metric,
                    filter=filter_name,
                    value=made.score.value,
                    stderr=made.score.stderr,
                    higher_is_better=facts.direction(made.leaves, metric),
                    n_samples=facts.n_samples(made.leaves),
                    aggregate=made.kind,
                )
            )
    return normalised


class _LeafFacts:
    """A result's facts about its tasks; facts about groups are derived from those.

    lm-eval's own facts about groups are incomplete or differ in meaning.
    """

    def __init__(self, native: Mapping[str, Any]) -> None:
        self._shots = native.get("n-shot", {})
        self._directions = native.get("higher_is_better", {})
        self._configs = native.get("configs", {})
        # Number of scored documents by task; lm-eval 0.4.2 and older do not write it.
        counts = native.get("n-samples", {})
        self.n_docs = {task: int(count["effective"]) for task, count in counts.items()}

    def n_shot(self, leaves: Iterable[str]) -> int | None:
        """Return the number of few-shot examples of these tasks; None if they differ."""
        shots = {self._shots.get(leaf) for leaf in leaves}
        return shots.pop() if len(shots) == 1 else None

    def n_samples(self, leaves: list[str]) -> int | None:
        """Return the total number of documents; None if that of a task is unknown."""
        counts = [self.n_docs[leaf] for leaf in leaves if leaf in self.n_docs]
        return sum(counts) if len(counts) == len(leaves) else None

    def direction(self, leaves: Iterable[str], metric: str) -> bool | None:
        """Return whether higher is better; None if these tasks disagree or do not tell."""
        directions = {self._direction(leaf, metric) for leaf in leaves}
        return directions.pop() if len(directions) == 1 else None

    def _direction(self, leaf: str, metric: str) -> bool | None:
        if leaf in self._directions:
            return _switch(self._directions[leaf].get(metric))
        # Before 0.4.3, only the task's configuration has it.
        for entry in self._configs.get(leaf, {}).get("metric_list") or []:
            if entry.get("metric") == metric:
                return _switch(entry.get("higher_is_better"))
        return None


def _switch(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _scores(values: Mapping[str, Any]) -> Iterator[tuple[MetricKey, TaskScore]]:
    """Yield the numeric values of a task, including NaN, by metric and filter."""
    for key, value in values.items():
        name, _, filter_name = key.partition(",")
        if is_metric(key) and _is_number(value):
            stderr = values.get(f"{name}_stderr,{filter_name}")
            yield (name, filter_name), TaskScore(value, stderr if is_finite(stderr) else None)


def is_metric(key: str) -> bool:
    """Return whether a key of a task's values names a metric: `metric,filter`."""
    name, comma, _ = key.partition(",")
    return bool(comma) and name not in _NO_METRICS and not name.endswith("_stderr")


def _finite(scores: Mapping[MetricKey, TaskScore]) -> dict[MetricKey, TaskScore]:
    return {key: score for key, score in scores.items() if is_finite(score.value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def compute_task_hashes(samples: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return lm-eval's digest of each task's documents, prompts and targets."""
    from lm_eval.utils import hash_string

    return {
        task: hash_string(
            "".join(doc["doc_hash"] + doc["prompt_hash"] + doc["target_hash"] for doc in documents)
        )
        for task, documents in samples.items()
    }


def task_states(native: Mapping[str, Any]) -> dict[str, TaskState]:
    """Return the version and the hash of each task and group of a result of lm-eval.

    A group's hash is the SHA-256 of the hashes of its tasks; it has none if that of a task is
    unknown. A group whose tasks all have one version has that version, unless it has its own.
    """
    groups = Groups(native)
    hashes = native.get("task_hashes") or {}
    versions = native.get("versions") or {}
    states = {}
    for task in dict.fromkeys([*native["results"], *groups.members]):
        leaves = groups.leaves(task)
        known = [str(hashes[leaf]) for leaf in leaves if hashes.get(leaf)]
        of_leaves = {_version(versions.get(leaf)) for leaf in leaves}
        version = _version(versions.get(task)) or (of_leaves.pop() if len(of_leaves) == 1 else "")
        states[task] = TaskState(version, _joint_hash(known) if len(known) == len(leaves) else "")
    return states


def _version(value: Any) -> str:
    return "" if value is None or value == "N/A" else str(value)


def _joint_hash(hashes: Sequence[str]) -> str:
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest() if hashes else ""


class TaskScores(NamedTuple):
    """What a row's tasks came to.

    Attributes:
        scores: the metrics that are numbers.
        states: the state of each task and group, with what is not as asked.
        remarks: what the user should know about the scores.
    """

    scores: list[MetricScore]
    states: dict[str, TaskState]
    remarks: list[str]


def read_task_scores(native: dict[str, Any], row: Row) -> TaskScores:
    """Return the scores of a row from lm-eval's result.

    A metric that is no number is named, and the others stay. Raises ValueError if none is left.
    """
    scores: list[MetricScore] = []
    odd: dict[str, list[str]] = {}
    for score in normalise_metrics(native, row["task_path"]):
        if is_finite(score.value):
            scores.append(score)
        else:
            odd.setdefault(score.task, []).append(f"{score.metric} is {score.value}")
    named = [f"{text} in {task}" for task, texts in odd.items() for text in texts]
    if not scores:
        raise ValueError(f"no metric is a number: {', '.join(named)}" if named else _lack(native))
    states = task_states(native)
    for task, text in _short_tasks(native, row):
        odd.setdefault(task, []).append(text)
    for task, texts in odd.items():
        states[task] = states.get(task, TaskState())._replace(remark="; ".join(texts))
    return TaskScores(scores, states, [*score_remarks(native, row), *named])


def _lack(native: Mapping[str, Any]) -> str:
    """Return why a result has no metrics."""
    keys = {key.partition(",")[0] for values in native["results"].values() for key in values}
    return "it has no metrics" + (": predicted, not scored" if "bypass" in keys else "")


def _short_tasks(native: Mapping[str, Any], row: Row) -> Iterator[tuple[str, str]]:
    """Yield the tasks with metrics of fewer documents than they have, with a remark."""
    expected = _expected_documents(native, row)
    for task, count in native["n-samples"].items():
        if int(count["effective"]) < expected[task]:
            yield task, f"a metric for only {count['effective']} of {expected[task]} documents"


def score_remarks(native: dict[str, Any], row: Row) -> list[str]:
    """Return remarks about tasks with fixed shots and about documents without a value."""
    asked = row.value("n_shot")
    fixed = [
        f"{task} fixes its shots: {used} were used, {asked} were asked for"
        for task, used in native["n-shot"].items()
        if asked is not None and used != asked
    ]
    return [*fixed, *(f"{task} has {text}" for task, text in _short_tasks(native, row))]


def require_complete(
    native: Mapping[str, Any], samples: Mapping[str, list[dict[str, Any]]], row: Row
) -> None:
    """Raise ValueError if a task was scored on fewer or more documents than the row asks for."""
    for task, expected in _expected_documents(native, row).items():
        scored = len({sample["doc_id"] for sample in samples.get(task, [])})
        if scored != expected:
            raise ValueError(f"{task}: {scored} documents were scored, {expected} were asked for")


def _expected_documents(native: Mapping[str, Any], row: Row) -> dict[str, int]:
    """Return the number of documents that the row asks for, by task."""
    limit = row.value("limit")
    return {
        task: count_documents(int(count["original"]), limit)
        for task, count in native["n-samples"].items()
    }
