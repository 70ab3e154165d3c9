"""The scores that figures show: one for each model and task as it was evaluated."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oellm.manifest import checkpoint_names
from oellm.metrics.records import PARTIAL, MetricRecord, is_finite


class Setting(NamedTuple):
    """A task as it was evaluated: only scores of the same setting can be compared."""

    task: str
    n_shot: int | None
    # The rest is shown only where settings of the task differ in it, and a limit always.
    metric: str
    filter: str
    eval_suite: str
    limit: float | None


class Score(NamedTuple):
    """What a model scored in a setting, by the task's primary metric."""

    setting: Setting
    model: str
    # The model without what gives its training step; the model itself where it has no step.
    run: str
    step: int | None
    value: float
    stderr: float | None
    # Whether this is an aggregate of some of its group's tasks only.
    partial: bool
    higher_is_better: bool | None
    group: str
    language: str


def scores(records: Iterable[MetricRecord]) -> list[Score]:
    """Return the scores of primary metrics, in the order of the records.

    Where a model has several in a setting, the one that finished last counts. What is no finite
    number is left out.
    """
    newest: dict[tuple[str, Setting], tuple[str, Score]] = {}
    for record in records:
        if not record.is_primary or not is_finite(record.value):
            continue
        score = _score(record)
        finished = record.finished
        key = score.model, score.setting
        if key not in newest or finished >= newest[key][0]:
            newest[key] = finished, score
    return [score for _, score in newest.values()]


def of_last_steps(found: Sequence[Score]) -> list[Score]:
    """Return the scores of each training run's last step, and those of models without a step."""
    last: dict[str, int] = {}
    for score in found:
        if score.step is not None:
            last[score.run] = max(score.step, last.get(score.run, 0))
    return [score for score in found if score.step is None or score.step == last[score.run]]


def of_whole_groups(found: Sequence[Score]) -> list[Score]:
    """Return the scores without those of a group's members, where the group has its own."""
    present = {score.setting.task for score in found}
    return [score for score in found if score.group not in present]


def titles(
    settings: Iterable[Setting], fields: Sequence[str] = ("metric", "filter", "eval_suite")
) -> dict[Setting, str]:
    """Return a title for each setting: task, shots, a limit, and of the fields those that differ.

    Differ among the settings of the task: each title is then unique, but for fields left out.
    """
    distinct = list(dict.fromkeys(settings))
    different = {
        field: Counter(task for task, _ in {(each.task, getattr(each, field)) for each in distinct})
        for field in fields
    }
    found = {}
    for setting in distinct:
        details = [] if setting.n_shot is None else [f"{setting.n_shot}-shot"]
        for field, count in different.items():
            if count[setting.task] > 1:
                details.append(getattr(setting, field) or f"no {field}")
        if setting.limit is not None:
            details.append(f"limit {setting.limit:g}")
        found[setting] = setting.task + (f" ({', '.join(details)})" if details else "")
    return found


def _score(record: MetricRecord) -> Score:
    step, model = record.step, record.model_path
    return Score(
        Setting(
            record.task,
            record.n_shot,
            record.metric,
            record.filter,
            record.eval_suite,
            record.limit,
        ),
        model,
        model if step is None else _training_run(model),
        step,
        float(record.value),
        record.stderr if is_finite(record.stderr) else None,
        record.aggregate == PARTIAL,
        record.higher_is_better,
        record.group,
        record.language,
    )


_training_run = functools.lru_cache(4096)(checkpoint_names.training_run)
