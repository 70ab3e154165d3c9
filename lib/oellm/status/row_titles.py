"""Short titles of rows, no two of them alike: model, task and number of shots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from oellm.core.display import shorten_middle
from oellm.manifest.rows import Row
from oellm.metrics.model_names import ModelName, short_names

# The titles of rows, by eval_id.
RowTitles = Mapping[str, str]


def make_titles(rows: Iterable[Row]) -> RowTitles:
    """Return the titles of a run's rows, such as `run1/iter_1000 arc_easy 5-shot`.

    Models lose what all models of the run have in common. Rows that differ in something else, such
    as their limit, also show the beginning of their eval_id.
    """
    rows = list(rows)
    models = short_names(map(_model, rows))
    tasks = _last_parts({row["task_path"] for row in rows})
    titles = {}
    for row in rows:
        shots = f" {row['n_shot']}-shot" if row["n_shot"] else ""
        titles[row["eval_id"]] = f"{models[_model(row)]} {tasks[row['task_path']]}{shots}"
    counts = Counter(titles.values())
    return {
        eval_id: title if counts[title] == 1 else f"{title} ({eval_id[:8]})"
        for eval_id, title in titles.items()
    }


def describe_rows(rows: Iterable[Row], width: int) -> str:
    """Return the first model and task of a run in about `width` letters, and how many more."""
    models: dict[ModelName, None] = {}
    tasks: dict[str, None] = {}
    for row in rows:
        models.setdefault(_model(row))
        tasks.setdefault(row["task_path"])
    if not models:
        return "no rows"
    first = next(iter(models))
    model, task = short_names([first])[first], next(iter(tasks)).rpartition("/")[2]
    more_models, more_tasks = (
        f" +{len(names) - 1}" if len(names) > 1 else "" for names in (models, tasks)
    )
    task = shorten_middle(task, max(8, width // 2 - len(more_tasks))) + more_tasks
    room = max(8, width - len(task) - len(more_models) - 2)
    if len(model) > room and not first.path.startswith("/"):
        # The name of a model on the hub says more than that of its owner.
        model = model.rpartition("/")[2]
    return f"{shorten_middle(model, room)}{more_models}: {task}"


def _model(row: Row) -> ModelName:
    return ModelName(row["model_path"], row["model_revision"])


def _last_parts(paths: Iterable[str]) -> dict[str, str]:
    """Return the last part of each path, and the whole path if others have the same last part."""
    last = {path: path.rpartition("/")[2] for path in paths}
    counts = Counter(last.values())
    return {path: name if counts[name] == 1 else path for path, name in last.items()}
