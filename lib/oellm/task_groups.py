"""Task groups: named suites of tasks with shots, framework, metric and language."""

from __future__ import annotations

import re
from typing import Any

from oellm import json_codec
from oellm.data_files import data_file
from oellm.errors import UsageError, nearest


def known_groups() -> dict[str, dict[str, Any]]:
    """Return the suites of task-groups.json by name."""
    loaded: dict[str, dict[str, Any]] = json_codec.loads(data_file("task-groups.json").read_bytes())
    return loaded["groups"]


def select(selection: str) -> list[dict[str, str]]:
    """Return the manifest cells of each task in a suite; `SUITE[a|b]` keeps two languages.

    Raises UsageError for an unknown suite, and for languages that the suite does not have.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", selection)
    if not match:
        raise UsageError(f"--task_groups: expected SUITE or SUITE[language|…], got {selection!r}")
    name, languages = match.groups()
    groups = known_groups()
    if name not in groups:
        raise UsageError(f"--task_groups: unknown suite {name!r}{nearest(name, groups)}")
    tasks = list(_cells(name, groups[name]))
    if languages is None:
        return tasks
    wanted = [language.strip() for language in languages.split("|")]
    known = dict.fromkeys(cells["language"] for cells in tasks if cells["language"])
    for language in wanted:
        if language not in known:
            hint = nearest(language, known)
            raise UsageError(f"--task_groups: {name} has no language {language!r}{hint}")
    return [cells for cells in tasks if cells["language"] in wanted]


def _cells(name: str, group: dict[str, Any]) -> list[dict[str, str]]:
    """Return the cells of each task × shots × language of one suite."""
    return [
        {
            "task_path": task["task"].replace("{language}", language),
            "n_shot": str(shots),
            "eval_suite": group.get("eval_suite", "lm_eval"),
            "task_group": name,
            "language": language,
            "primary_metric": task.get("metric", ""),
        }
        for task in group["tasks"]
        for shots in task["n_shot"]
        for language in group.get("languages", [""])
    ]
