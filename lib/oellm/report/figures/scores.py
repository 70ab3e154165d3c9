"""The scores that figures show: one for each model and setting."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oellm.core.json_codec import is_finite
from oellm.manifest import checkpoint_names
from oellm.metrics.model_names import ModelName, short_names
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.metrics.score_groups import ScoreSetting, group_scores, select_primary


class FigureScore(NamedTuple):
    """The score of a model in a setting.

    Attributes:
        run: the model without its training step; the model itself if it has no step.
        label: the short name of the run.
        is_partial: whether the score covers only some tasks of its group.
    """

    setting: ScoreSetting
    model: ModelName
    run: ModelName
    label: str
    step: int | None
    value: float
    stderr: float | None
    is_partial: bool
    higher_is_better: bool | None
    group: str
    language: str


def read_scores(records: Iterable[MetricRecord]) -> list[FigureScore]:
    """Return the scores of primary records, setting by setting.

    If a model has several scores in a setting, the one that finished last counts. Values that are
    not finite numbers are left out.
    """
    groups = group_scores(record for record in select_primary(records) if is_finite(record.value))
    newest = [
        (setting, model, of_model[0])
        for setting, by_model in groups.items()
        for model, of_model in by_model.items()
    ]
    runs = {model: _training_run(model, record.step) for _, model, record in newest}
    labels = short_names(runs.values())
    return [
        FigureScore(
            setting=setting,
            model=model,
            run=runs[model],
            label=labels[runs[model]],
            step=record.step,
            value=float(record.value),
            stderr=record.stderr if is_finite(record.stderr) else None,
            is_partial=record.aggregate == PARTIAL,
            higher_is_better=record.higher_is_better,
            group=record.group,
            language=record.language,
        )
        for setting, model, record in newest
    ]


def select_last_steps(scores: Sequence[FigureScore]) -> list[FigureScore]:
    """Return the scores of each training run's last step, and those of models without a step."""
    last: dict[ModelName, int] = {}
    for score in scores:
        if score.step is not None:
            last[score.run] = max(score.step, last.get(score.run, 0))
    return [score for score in scores if score.step is None or score.step == last[score.run]]


def drop_members(scores: Sequence[FigureScore]) -> list[FigureScore]:
    """Return the scores without those of members of groups that have a score of their own."""
    present = {score.setting.task for score in scores}
    return [score for score in scores if score.group not in present]


def setting_titles(
    settings: Iterable[ScoreSetting], fields: Sequence[str] = ("metric", "filter", "eval_suite")
) -> dict[ScoreSetting, str]:
    """Return a title for each setting: task, shots and limit, and the fields that tell it apart.

    A title shows those of `fields` in which the settings of its task differ. So titles are unique,
    unless a field is missing in `fields`.
    """
    distinct = list(dict.fromkeys(settings))
    different = {
        field: Counter(task for task, _ in {(each.task, getattr(each, field)) for each in distinct})
        for field in fields
    }
    titles = {}
    for setting in distinct:
        details = [] if setting.n_shot is None else [f"{setting.n_shot}-shot"]
        for field, count in different.items():
            if count[setting.task] > 1:
                details.append(getattr(setting, field) or f"no {field}")
        if setting.limit is not None:
            details.append(f"limit {setting.limit:g}")
        titles[setting] = setting.task + (f" ({', '.join(details)})" if details else "")
    return titles


def _training_run(model: ModelName, step: int | None) -> ModelName:
    # Steps of a run on the hub are commits of one repository.
    return model if step is None else ModelName(_run_of_path(model.path, step))


_run_of_path = functools.lru_cache(4096)(checkpoint_names.training_run)
