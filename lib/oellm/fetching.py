"""Fetching what the rows of a manifest need: models, data sets, metrics."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from oellm import frameworks, hub, manifest, schema
from oellm.errors import InputError
from oellm.hub import HubModel, Problem
from oellm.manifest import Row
from oellm.models import ModelSpec

if TYPE_CHECKING:
    from oellm.frameworks.lm_eval_data import TaskIndices

# Line numbers that one message names.
_LINES_SHOWN = 10

Report = Callable[[str], None]


@dataclass(frozen=True)
class Failure:
    """A problem, the column whose cell it is about, and the lines that have that cell."""

    source: str
    lines: tuple[int, ...]
    column: str
    problem: Problem

    def __str__(self) -> str:
        shown = ",".join(map(str, self.lines[:_LINES_SHOWN]))
        more = len(self.lines) - _LINES_SHOWN
        place = f"{shown} and {more} more" if more > 0 else shown
        return f"{self.source}:{place}: {self.column}: {self.problem.text}"


@dataclass(frozen=True)
class Outcome:
    """The rows whose model and task were fetched, in order, and what failed of the others."""

    columns: list[str]
    rows: list[Row]
    failures: list[Failure]


def read_rows(stream: TextIO, source: str) -> list[Row]:
    """Read a manifest whose rows can be fetched.

    Raises InputError for anything wrong in it, an eval_id that is not the row's among that.
    """
    rows = []
    for row in manifest.read(stream, source):
        frameworks.require(row)
        if row["eval_id"]:
            manifest.identified(manifest.located(row))
        rows.append(row)
    return rows


class Fetcher:
    """Fetches each model and each task of the rows once.

    `hub_problem` says that the hub gives no answer: then only what needs no hub, or what is in
    the cache, goes through.
    """

    def __init__(
        self, address: str, hub_problem: Problem | None, jobs: int, report: Report
    ) -> None:
        self._address = address
        self._hub_problem = hub_problem
        self._report = report
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="download")
        self._models: dict[HubModel, Future[str | Problem]] = {}
        self._tasks: dict[tuple[str, str], tuple[str, Problem] | None] = {}
        self._downloaded = 0

    def fetch(self, rows: list[Row]) -> Outcome:
        """Fetch what the rows need and return them with their model_revision."""
        needs = [manifest.located(row) for row in rows]
        for row in needs:
            for model in hub.repositories(row.model, row["model_revision"]):
                if model not in self._models:
                    self._models[model] = self._pool.submit(self._fetch_model, model)
        # lm-eval is not made for threads; its tasks are fetched here while models are downloaded.
        self._fetch_tasks(needs)
        passed: list[Row] = []
        problems: dict[tuple[str, Problem], list[Row]] = {}
        for row, need in zip(rows, needs, strict=True):
            found = self._problems(need)
            for key in found:
                problems.setdefault(key, []).append(row)
            if not found:
                passed.append(_with_revision(row, self._revision(need)))
        self._pool.shutdown()
        columns = dict.fromkeys(rows[0].cells if rows else _required_columns())
        return Outcome([*columns | {"model_revision": None}], passed, _failures(problems))

    def _fetch_model(self, model: HubModel) -> str | Problem:
        """Return the commit of a downloaded model, or why there is none."""
        name = f"{model.path}@{model.revision}" if model.revision else model.path
        if self._hub_problem is not None:
            return Problem(f"{name}: {self._hub_problem.text}", unreachable=True)
        try:
            commit = hub.download(model)
        except Exception as error:
            problem = hub.problem(error, self._address)
            return Problem(f"{name}: {problem.text}", problem.unreachable)
        with self._lock:
            self._downloaded += 1
            count = f"{self._downloaded} of {len(self._models)}"
            self._report(f"model {model.path} at {commit[:12]} ({count})")
        return commit

    def _fetch_tasks(self, needs: list[Row]) -> None:
        from oellm.frameworks.lm_eval_data import TaskIndices

        indices = TaskIndices()
        wanted = dict.fromkeys((row["task_path"], row["include_path"]) for row in needs)
        for number, (task, include_path) in enumerate(wanted, 1):
            count = f"({number} of {len(wanted)})"
            self._tasks[task, include_path] = self._fetch_task(indices, task, include_path, count)

    def _fetch_task(
        self, indices: TaskIndices, task: str, include_path: str, count: str
    ) -> tuple[str, Problem] | None:
        """Return why a task cannot be fetched, with the column to blame, or None."""
        from oellm.frameworks import lm_eval_data

        try:
            members = lm_eval_data.fetch(indices, task, include_path)
        except InputError as error:
            return error.column, Problem(error.message)
        # A task's code is anybody's; one even raises SystemExit.
        except (Exception, SystemExit) as error:
            return "task_path", self._task_problem(task, error)
        with self._lock:
            self._report(f"task {task}{f', {members} tasks' if members > 1 else ''} {count}")
        return None

    def _task_problem(self, task: str, error: BaseException) -> Problem:
        problem = hub.problem(error, self._address)
        # The library's words name the data set, ours say what to do.
        said = hub.first_line(error)
        text = problem.text if said in problem.text else f"{said} ({problem.text})"
        return Problem(f"{task}: {text}", problem.unreachable)

    def _problems(self, need: Row) -> list[tuple[str, Problem]]:
        """Return what keeps a row from being evaluated, with the columns that are to blame."""
        found = []
        if need.model.is_local and (text := _local_problem(need.model)):
            found.append(("model_path", Problem(text)))
        for model in hub.repositories(need.model, need["model_revision"]):
            fetched = self._models[model].result()
            if isinstance(fetched, Problem):
                found.append(("model_path", fetched))
        task = self._tasks[need["task_path"], need["include_path"]]
        return found if task is None else [*found, task]

    def _revision(self, need: Row) -> str:
        if need.model.is_local:
            return ""
        model = next(hub.repositories(need.model, need["model_revision"]))
        return str(self._models[model].result())


def _with_revision(row: Row, revision: str) -> Row:
    changed = row["model_revision"] != revision
    row = row.with_cells(model_revision=revision)
    # The identity is over the revision too; the next stage computes it anew.
    return row.with_cells(eval_id="") if changed and row["eval_id"] else row


def _local_problem(model: ModelSpec) -> str:
    """Return why a local directory holds no model, or nothing."""
    arguments = dict(model.arguments)
    if not os.path.isdir(model.path):
        return f"{model.path}: no such directory"
    directory = os.path.normpath(os.path.join(model.path, arguments.get("subfolder", "")))
    needed = arguments.get("gguf_file") or "config.json"
    if not os.path.isfile(os.path.join(directory, needed)):
        return f"{directory}: no model here: it has no {needed}"
    return ""


def _required_columns() -> list[str]:
    return [name for name, spec in schema.table("manifest").items() if spec.get("required")]


def _failures(problems: dict[tuple[str, Problem], list[Row]]) -> list[Failure]:
    return [
        Failure(rows[0].source, tuple(row.line or 0 for row in rows), column, problem)
        for (column, problem), rows in problems.items()
    ]
