"""The scores that can be compared with each other: those of the same setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from oellm.metrics.model_names import ModelName
from oellm.metrics.records import MetricRecord


class ScoreSetting(NamedTuple):
    """A task as it was evaluated; the fields are columns of metric records."""

    task: str
    n_shot: int | None
    metric: str
    filter: str
    eval_suite: str
    limit: float | None

    @classmethod
    def of_record(cls, record: MetricRecord) -> ScoreSetting:
        """Return the setting of a record."""
        return cls(
            task=record.task,
            n_shot=record.n_shot,
            metric=record.metric,
            filter=record.filter,
            eval_suite=record.eval_suite,
            limit=record.limit,
        )


# By setting and model, the records of each evaluation, the newest first.
ScoreGroups = dict[ScoreSetting, dict[ModelName, list[MetricRecord]]]


def select_primary(records: Iterable[MetricRecord]) -> list[MetricRecord]:
    """Return the records that stand for their tasks.

    These are the primary ones. Of records that do not say whether they are primary, which other
    tools may have made, the first of each evaluation counts.
    """
    primary: list[MetricRecord] = []
    undecided: dict[tuple[object, ...], MetricRecord] = {}
    for record in records:
        if record.is_primary:
            primary.append(record)
        elif record.is_primary is None:
            setting = ScoreSetting.of_record(record)._replace(metric="", filter="")
            key = (setting, record.model_path, record.model_revision, record.run_dir)
            undecided.setdefault(key, record)
    return primary + list(undecided.values())


def group_scores(records: Iterable[MetricRecord]) -> ScoreGroups:
    """Return records by setting and model, both in order of appearance.

    A model may have several records in a setting; the one that finished last comes first.
    """
    groups: ScoreGroups = defaultdict(lambda: defaultdict(list))
    for record in records:
        model = ModelName(record.model_path, record.model_revision)
        groups[ScoreSetting.of_record(record)][model].append(record)
    for by_model in groups.values():
        for of_model in by_model.values():
            of_model.sort(key=lambda record: record.finished, reverse=True)
    return groups
