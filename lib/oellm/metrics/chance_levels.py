"""Scores above chance: 0 is what guessing gives, and 1 is perfect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from oellm.metrics.records import MetricRecord

# All shares of right answers, however the answer is chosen.
_ACCURACY = "acc"


class ChanceLevel(NamedTuple):
    """What guessing gives.

    Attributes:
        metric: The metric of which this is a value. It holds for all accuracies if it is one.
        value: A share, below 1.
    """

    metric: str
    value: float

    def holds_for(self, metric: str) -> bool:
        """Return whether it is a value of this metric."""
        both_accuracies = metric.startswith(_ACCURACY) and self.metric.startswith(_ACCURACY)
        return metric == self.metric or both_accuracies


# By framework and task.
ChanceLevels = Mapping[tuple[str, str], ChanceLevel]


def normalise(
    records: Iterable[MetricRecord], levels: ChanceLevels
) -> tuple[list[MetricRecord], list[str]]:
    """Return (score - chance) / (1 - chance) for each score, and the tasks that are left out.

    The standard error becomes stderr / (1 - chance). A part of a group has the chance level of its
    group if it has none of its own. A task is left out if its chance level is unknown.
    """
    normalised = []
    left_out: dict[str, None] = {}
    for record in records:
        level = _find_level(record, levels)
        if level is None:
            left_out[record.task] = None
            continue
        room = 1 - level.value
        stderr = None if record.stderr is None else record.stderr / room
        normalised.append(record._replace(value=(record.value - level.value) / room, stderr=stderr))
    known = {record.task for record in normalised}
    return normalised, [task for task in left_out if task not in known]


def _find_level(record: MetricRecord, levels: ChanceLevels) -> ChanceLevel | None:
    for task in filter(None, (record.task, record.group)):
        level = levels.get((record.eval_suite, task))
        if level is not None:
            return level if level.holds_for(record.metric) else None
    return None
