"""lm-evaluation-harness: the groups of a result, and the scores of groups.

A group's score is taken from lm-eval only where all of its tasks have theirs in the same result;
else it is computed here as lm-eval would: the mean of the tasks, weighted by their documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from oellm.metrics.records import DERIVED, PARTIAL, REPORTED, is_finite

# Metric and filter.
Key = tuple[str, str]


class Score(NamedTuple):
    """One value of a metric."""

    value: float
    # None where it is unknown.
    stderr: float | None


class Aggregate(NamedTuple):
    """A group's value of a metric."""

    score: Score
    # A value of the column `aggregate`.
    kind: str
    # The tasks that it was made of.
    leaves: list[str]


class Groups:
    """Which groups a result has, and which tasks and groups are in each."""

    def __init__(self, native: Mapping[str, Any]) -> None:
        listed = native.get("group_subtasks")
        found = _by_indentation(native) if listed is None else listed
        # lm-eval 0.4.2 lists tasks, too, with nothing in them.
        self.members: dict[str, list[str]] = {name: list(m) for name, m in found.items() if m}

    def reachable(self, name: str) -> list[str]:
        """Return a group and all that is in it, through its subgroups, each once."""
        found = {name: None}
        waiting = [name]
        while waiting:
            for member in self.members.get(waiting.pop(0), []):
                if member not in found:
                    found[member] = None
                    waiting.append(member)
        return list(found)

    def leaves(self, name: str) -> list[str]:
        """Return the tasks of a group; of a task the task itself."""
        return [task for task in self.reachable(name) if task not in self.members]

    def top(self, names: Iterable[str]) -> list[str]:
        """Return those of the names, and of the groups, that are in no group."""
        inner = {member for members in self.members.values() for member in members}
        return [name for name in dict.fromkeys([*names, *self.members]) if name not in inner]


def aggregates(
    own: Mapping[Key, Score],
    leaves: Sequence[str],
    of_leaves: Mapping[str, Mapping[Key, Score]],
    n_docs: Mapping[str, int],
) -> dict[Key, Aggregate]:
    """Return the scores of a group by metric and filter.

    `own` are those that lm-eval gave for it; where it gave none, each metric of its tasks has one.
    `n_docs` has the numbers of documents that are known; without them nothing is computed.
    """
    found = {}
    for key in own or dict.fromkeys(key for leaf in leaves for key in of_leaves.get(leaf, {})):
        scored = [leaf for leaf in leaves if key in of_leaves.get(leaf, {})]
        is_whole = len(scored) == len(leaves)
        if is_whole and key in own:
            found[key] = Aggregate(own[key], REPORTED, scored)
        elif scored and all(n_docs.get(leaf) for leaf in scored):
            score = pooled([(of_leaves[leaf][key], n_docs[leaf]) for leaf in scored])
            if is_finite(score.value):
                found[key] = Aggregate(score, DERIVED if is_whole else PARTIAL, scored)
    return found


def pooled(scores: Sequence[tuple[Score, int]]) -> Score:
    """Return the score over all documents of several tasks with their numbers of documents.

    The standard error is lm-eval's own (pooled_sample_stderr): that of the documents put together,
    as if the tasks had one mean. It is not sqrt(sum (n s)^2) / N, which takes the tasks for fixed
    strata; so a group's error here and one that lm-eval reports can be compared. Unknown where
    that of a task is, or where no task has more than one document.
    """
    total = sum(size for _, size in scores)
    value = sum(score.value * size for score, size in scores) / total
    errors = [score.stderr for score, _ in scores if score.stderr is not None]
    freedom = total - len(scores)
    if len(errors) < len(scores) or not freedom:
        return Score(value, None)
    squares = (
        (size - 1) * size * error * error for (_, size), error in zip(scores, errors, strict=True)
    )
    stderr = math.sqrt(sum(squares) / freedom / total)
    return Score(value, stderr if is_finite(stderr) else None)


def _by_indentation(native: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the members of groups as lm-eval 0.4.0 and 0.4.1 show them: indented below theirs."""
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
