"""The groups of an lm-eval result, and their scores.

We take a group's score from lm-eval only if all its tasks have a score in the same result.
Otherwise we compute it as lm-eval would: the mean of the tasks, weighted by their documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.core.json_codec import is_finite
from oellm.metrics.records import DERIVED, PARTIAL, REPORTED

# Metric and filter.
MetricKey = tuple[str, str]


class TaskScore(NamedTuple):
    """One value of a metric, and its standard error; None if that is unknown."""

    value: float
    stderr: float | None


class Aggregate(NamedTuple):
    """A group's value of a metric.

    Attributes:
        score: The value.
        kind: A value of the column `aggregate`.
        leaves: The tasks that the value covers.
    """

    score: TaskScore
    kind: str
    leaves: list[str]


class Groups:
    """The groups of a result, and the members of each: tasks and groups."""

    def __init__(self, native: Mapping[str, Any]) -> None:
        listed = native.get("group_subtasks")
        members = _members_by_indentation(native) if listed is None else listed
        # lm-eval 0.4.2 also lists tasks, without members.
        self.members: dict[str, list[str]] = {name: list(m) for name, m in members.items() if m}

    def reachable(self, name: str) -> list[str]:
        """Return a group and all its direct and indirect members, each once."""
        reached = {name: None}
        pending = [name]
        while pending:
            for member in self.members.get(pending.pop(0), []):
                if member not in reached:
                    reached[member] = None
                    pending.append(member)
        return list(reached)

    def leaves(self, name: str) -> list[str]:
        """Return all tasks of a group; for a task, the task itself."""
        return [task for task in self.reachable(name) if task not in self.members]

    def top(self, names: Iterable[str]) -> list[str]:
        """Return those names and groups that are members of no group."""
        inner = {member for members in self.members.values() for member in members}
        return [name for name in dict.fromkeys([*names, *self.members]) if name not in inner]


def aggregate_scores(
    own: Mapping[MetricKey, TaskScore],
    leaves: Sequence[str],
    leaf_scores: Mapping[str, Mapping[MetricKey, TaskScore]],
    n_docs: Mapping[str, int],
) -> dict[MetricKey, Aggregate]:
    """Return the scores of a group by metric and filter.

    `own` has lm-eval's scores of the group; if it is empty, every metric of its tasks is
    aggregated. `n_docs` has the known numbers of documents by task; a score is computed only if
    those of all its tasks are known.
    """
    aggregates = {}
    for key in own or dict.fromkeys(key for leaf in leaves for key in leaf_scores.get(leaf, {})):
        scored = [leaf for leaf in leaves if key in leaf_scores.get(leaf, {})]
        is_whole = len(scored) == len(leaves)
        if is_whole and key in own:
            aggregates[key] = Aggregate(own[key], REPORTED, scored)
        elif scored and all(n_docs.get(leaf) for leaf in scored):
            score = pool_scores([(leaf_scores[leaf][key], n_docs[leaf]) for leaf in scored])
            if is_finite(score.value):
                aggregates[key] = Aggregate(score, DERIVED if is_whole else PARTIAL, scored)
    return aggregates


def pool_scores(scores: Sequence[tuple[TaskScore, int]]) -> TaskScore:
    """Return the score over all documents of several tasks, given with their document counts.

    The standard error is lm-eval's own (pooled_sample_stderr): that of all documents together, as
    if the tasks had one mean. So it can be compared with the errors that lm-eval reports for
    groups. It is not sqrt(sum (n s)^2) / N, which treats the tasks as fixed strata. The error is
    None if that of a task is, or if no task has more than one document.
    """
    total = sum(size for _, size in scores)
    value = sum(score.value * size for score, size in scores) / total
    errors = [score.stderr for score, _ in scores if score.stderr is not None]
    freedom = total - len(scores)
    if len(errors) < len(scores) or not freedom:
        return TaskScore(value, None)
    squares = (
        (size - 1) * size * error * error for (_, size), error in zip(scores, errors, strict=True)
    )
    stderr = math.sqrt(sum(squares) / freedom / total)
    return TaskScore(value, stderr if is_finite(stderr) else None)


def _members_by_indentation(native: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the members of groups in results of lm-eval 0.4.0 and 0.4.1.

    These show the members only by indented aliases below their group.
    """
    members: dict[str, list[str]] = {name: [] for name in native.get("groups") or {}}
    above: list[tuple[int, str]] = []
    for name, values in native["results"].items():
        alias = str(values.get("alias", name))
        depth = len(alias) - len(alias.lstrip(" "))
        while above and above[-1][0] >= depth:
            above.pop()
        if above:
            members[above[-1][1]].append(name)
        if name in members:
            above.append((depth, name))
    return members
