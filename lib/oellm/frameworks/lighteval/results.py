"""Reads the results of lighteval: results_*.json.

This follows lighteval 0.13, which writes neither versions nor numbers of documents. Task names
include their shots: `gsm8k|5`, and before 0.13 `leaderboard|gsm8k|5|0`, where the suite stays part
of our name. `a:b` is part b of group a, whose average lighteval reports without weights. Two things
are left out: the average's stderr, which is only the mean of the tasks' errors, and `all`, the
average over everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading import values as native
from oellm.frameworks.reading.plain_metrics import describe_left_out, read_metrics
from oellm.frameworks.reading.values import Object
from oellm.manifest.rows import Row
from oellm.metrics.records import REPORTED
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment, TaskState

_AVERAGE = ":_average"


class _Task(NamedTuple):
    """A task's name, without and with its parts."""

    name: str
    shots: int | None

    @property
    def group(self) -> str:
        return self.name.partition(":")[0] if ":" in self.name else ""


class _TaskFacts:
    """The facts about the tasks, by their keys."""

    def __init__(self, document: Object) -> None:
        configs = native.get_objects(document, "config_tasks")
        summaries = native.get_objects(document, "summary_tasks")
        # lighteval 0.13 writes no versions.
        versions = {
            key: str(version)
            for key, version in native.get_object(document, "versions").items()
            if native.is_count(version)
        }
        states = {
            key: TaskState(versions.get(key, ""), _full_hash(summaries.get(key, {})))
            for key in {**versions, **summaries}
        }
        self.states = {key: state for key, state in states.items() if any(state)}
        counts = {key: config.get("effective_num_docs") for key, config in configs.items()}
        # The number of scored documents by key, without the unknown ones (-1).
        self.n_docs = {
            key: count for key, count in counts.items() if native.is_count(count) and count
        }
        # Whether higher is better, by metric.
        self.directions: dict[str, bool] = {}
        for config in configs.values():
            listed = config.get("metrics")
            for metric in listed if isinstance(listed, list) else ():
                if isinstance(metric, dict) and isinstance(metric.get("higher_is_better"), bool):
                    self.directions[str(metric.get("metric_name"))] = metric["higher_is_better"]


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return one row for each group and number of shots, and for each task without a group.

    Returns None if the document is no result of lighteval. Raises ValueError if it is damaged.
    """
    if "config_general" not in document or "results" not in document:
        return None
    results = {key: v for key, v in native.get_objects(document, "results").items() if key != "all"}
    facts = _TaskFacts(document)
    general = native.get_object(document, "config_general")
    cells = _cells(general)
    shared = ScoredRow(
        Row(cells),
        [],
        finished=native.find_finish_time(path),
        run_dir=path,
        contents=Contents(model=cells.get("model_revision", "")),
        environment=_environment(general),
    )
    found = []
    for asked, keys in _asked(results).items():
        scores = [m for key in keys for m in _metrics(key, asked, values=results[key], facts=facts)]
        remarks = tuple(text for key in keys for text in describe_left_out(key, results[key]))
        if scores or remarks:
            shots = "" if asked.shots is None else str(asked.shots)
            row = native_cells.make_row({**cells, "task_path": asked.name, "n_shot": shots})
            states = {_task(key).name: facts.states[key] for key in keys if key in facts.states}
            found.append(shared._replace(row=row, scores=scores, remarks=remarks, tasks=states))
    return found


def _asked(results: Mapping[str, Object]) -> dict[_Task, list[str]]:
    """Return the keys of each group that has an average, and of each task without a group."""
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
    return _Task(
        "|".join(parts[:place]), int(shots) if shots.isascii() and shots.isdecimal() else None
    )


def _metrics(
    key: str, asked: _Task, values: Mapping[str, Any], facts: _TaskFacts
) -> Iterator[MetricScore]:
    task = _task(key)
    is_average = task.name.endswith(_AVERAGE)
    for name, value, stderr in read_metrics(values):
        yield MetricScore(
            task=task.name.removesuffix(_AVERAGE),
            group="" if is_average or task == asked else asked.name,
            n_shot=task.shots,
            metric=name,
            filter="none",
            value=value,
            stderr=None if is_average else stderr,
            higher_is_better=facts.directions.get(name),
            n_samples=facts.n_docs.get(key),
            aggregate=REPORTED if is_average else "",
        )


def _full_hash(summary: Object) -> str:
    """Return lighteval's digest of a task's prompts; empty if it has none."""
    hashes = summary.get("hashes")
    found = hashes.get("hash_full_prompts") if isinstance(hashes, dict) else None
    return found if isinstance(found, str) else ""


def _environment(general: Object) -> Environment:
    """Return what a result was computed with; a commit of lighteval that is unknown is `?`."""
    model = native.get_object(general, "model_config")
    dtype = native.get_text(model, "dtype") or native.get_text(general, "model_dtype")
    commit = native.get_text(general, "lighteval_sha")
    return Environment(
        framework_version="" if commit == "?" else commit,
        dtype=dtype.removeprefix("torch.") if dtype != "auto" else "",
    )


def _cells(general: Object) -> dict[str, str]:
    """Return the cells that all rows of a result share."""
    model = native.get_object(general, "model_config")
    arguments = {
        name: value
        for name in ("revision", "subfolder", "dtype")
        if (value := native.get_text(model, name)) and (name, value) != ("revision", "main")
    }
    generation = {
        name: value
        for name, value in native.get_object(model, "generation_parameters").items()
        if value is not None
    }
    name = native.get_text(model, "model_name") or native.get_text(general, "model_name")
    template = model.get("override_chat_template")
    return {
        "eval_suite": "lighteval",
        "limit": native_cells.format_limit(general.get("max_samples")),
        "gen_kwargs": native_cells.format_arguments(generation),
        # If it is null, lighteval applies the model's own template, if any.
        "apply_chat_template": str(template).lower() if isinstance(template, bool) else "",
        "system_instruction": native.get_text(model, "system_prompt"),
        "model_revision": native.get_text(general, "model_sha"),
        **native_cells.model_cells(name, arguments),
    }
