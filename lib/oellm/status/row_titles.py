"""Short titles of rows, no two of them alike: model, task and, if need be, number of shots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from oellm.core.display import shorten_middle
from oellm.manifest.rows import Row
from oellm.metrics.model_names import ModelName, short_names
from oellm.metrics.records import canonical_model

# The titles of rows, by eval_id.
RowTitles = Mapping[str, str]


def make_titles(rows: Iterable[Row], names: Mapping[ModelName, str] | None = None) -> RowTitles:
    """Return the titles of a run's rows, such as `run1/iter_1000 arc_easy 5-shot`.

    Models have the names that they have beside all other models of the run, or those in `names`.
    The shots are shown of a task that occurs with several. Rows that differ in something else,
    such as their limit, also show the beginning of their eval_id.
    """
    rows = list(rows)
    models = short_names(map(model_of, rows)) if names is None else names
    tasks = _last_parts({row["task_path"] for row in rows})
    shots = Counter(task for task, _ in {(row["task_path"], row["n_shot"]) for row in rows})
    titles = {}
    for row in rows:
        title = f"{models[model_of(row)]} {tasks[row['task_path']]}"
        if shots[row["task_path"]] > 1:
            title += f" {row['n_shot']}-shot" if row["n_shot"] else " default shots"
        titles[row["eval_id"]] = title
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
        models.setdefault(model_of(row))
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


def model_of(row: Row) -> ModelName:
    """Return the model of a row as records name it."""
    return ModelName(canonical_model(row["model_path"]), row["model_revision"])


def _last_parts(paths: Iterable[str]) -> dict[str, str]:
    """Return the last part of each path, and the whole path if others have the same last part."""
    last = {path: path.rpartition("/")[2] for path in paths}
    counts = Counter(last.values())
    return {path: name if counts[name] == 1 else path for path, name in last.items()}
