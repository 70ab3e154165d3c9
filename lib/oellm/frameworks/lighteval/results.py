"""lighteval: reading its results, results_*.json.

Written from the source of lighteval 0.13, and tried with what its EvaluationTracker writes, not
with a whole evaluation. Names of tasks have their shots (`gsm8k|5`; before 0.13
`leaderboard|gsm8k|5|0`, whose suite stays part of the name), and `a:b` is the part b of a group a,
whose average lighteval reports without weights. What it calls the
average's stderr is the mean of its tasks' errors, no standard error of the average, and left out;
so is `all`, the average over everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading.values import (
    Object,
    find_finish_time,
    is_count,
    object_at,
    objects_at,
    spelled,
    text_at,
)
from oellm.metrics.records import REPORTED, is_finite
from oellm.metrics.scored_rows import MetricScore, ScoredRow

_AVERAGE = ":_average"


class _Task(NamedTuple):
    """What the name of a task says."""

    name: str
    shots: int | None

    @property
    def group(self) -> str:
        return self.name.partition(":")[0] if ":" in self.name else ""


class _TaskFacts:
    """What the configurations of the tasks say."""

    def __init__(self, configs: Mapping[str, Object]) -> None:
        counts = {key: config.get("effective_num_docs") for key, config in configs.items()}
        # Documents that were scored, by key; -1 stands for unknown.
        self.n_docs = {key: count for key, count in counts.items() if is_count(count) and count}
        # Whether higher is better, by metric.
        self.directions: dict[str, bool] = {}
        for config in configs.values():
            listed = config.get("metrics")
            for metric in listed if isinstance(listed, list) else ():
                if isinstance(metric, dict) and isinstance(metric.get("higher_is_better"), bool):
                    self.directions[str(metric.get("metric_name"))] = metric["higher_is_better"]


def scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return one row for each group and number of shots, and for each task in none.

    None where the document is no result of lighteval. Raises ValueError where it is damaged.
    """
    if "config_general" not in document or "results" not in document:
        return None
    results = {key: v for key, v in objects_at(document, "results").items() if key != "all"}
    facts = _TaskFacts(objects_at(document, "config_tasks"))
    cells, finished = _cells(object_at(document, "config_general")), find_finish_time(path)
    found = []
    for asked, keys in _asked(results).items():
        scores = [m for key in keys for m in _metrics(key, asked, results[key], facts)]
        if scores:
            shots = "" if asked.shots is None else str(asked.shots)
            row = native_cells.row({**cells, "task_path": asked.name, "n_shot": shots})
            remarks = tuple(text for key in keys for text in _left_out(key, results[key]))
            found.append(ScoredRow(row, scores, finished, path, remarks))
    return found


def _asked(results: Mapping[str, Object]) -> dict[_Task, list[str]]:
    """Return the groups that have an average, and the tasks in none, with the keys of theirs."""
    averages = {
        task._replace(name=task.name.removesuffix(_AVERAGE))
        for task in map(_task, results)
        if task.name.endswith(_AVERAGE)
    }
    asked: dict[_Task, list[str]] = {}
    for key in results:
        task = _task(key)
        group = task._replace(name=task.group)
        asked.setdefault(group if group in averages else task, []).append(key)
    return asked


def _task(key: str) -> _Task:
    """Parse `task|shots`, or as before 0.13 `suite|task|shots|truncation`."""
    parts = key.split("|")
    place = 1 if len(parts) < 3 else 2
    shots = parts[place] if len(parts) > place else ""
    return _Task("|".join(parts[:place]), int(shots) if shots.isdecimal() else None)


def _metrics(
    key: str, asked: _Task, values: Mapping[str, Any], facts: _TaskFacts
) -> Iterator[MetricScore]:
    task = _task(key)
    is_average = task.name.endswith(_AVERAGE)
    for name, value in values.items():
        if not is_finite(value) or name.endswith("_stderr"):
            continue
        stderr = None if is_average else values.get(f"{name}_stderr")
        yield MetricScore(
            task=task.name.removesuffix(_AVERAGE),
            group="" if is_average or task == asked else asked.name,
            n_shot=task.shots,
            metric=name,
            filter="none",
            value=value,
            stderr=stderr if is_finite(stderr) else None,
            higher_is_better=facts.directions.get(name),
            n_samples=facts.n_docs.get(key),
            aggregate=REPORTED if is_average else "",
        )


def _left_out(key: str, values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if not is_finite(value) and not name.endswith("_stderr"):
            yield f"{name} of {key} is {spelled(value)}"


def _cells(general: Object) -> dict[str, str]:
    """Return the cells that all rows of a result share."""
    model = object_at(general, "model_config")
    arguments = {
        name: value
        for name in ("revision", "subfolder", "dtype")
        if (value := text_at(model, name)) and (name, value) != ("revision", "main")
    }
    generation = {
        name: value
        for name, value in object_at(model, "generation_parameters").items()
        if value is not None
    }
    name = text_at(model, "model_name") or text_at(general, "model_name")
    template = model.get("override_chat_template")
    return {
        "model_path": native_cells.model_path(name, arguments),
        "eval_suite": "lighteval",
        "limit": native_cells.limit(general.get("max_samples")),
        "gen_kwargs": native_cells.arguments(generation),
        # Null: lighteval applies the one that the model has, if any.
        "apply_chat_template": str(template).lower() if isinstance(template, bool) else "",
        "system_instruction": text_at(model, "system_prompt"),
        "model_revision": text_at(general, "model_sha"),
    }
