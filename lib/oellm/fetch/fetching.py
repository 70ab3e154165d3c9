"""Fetching what the rows of a manifest need: models, data sets, metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TextIO

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.core import schema
from oellm.core.log import Log
from oellm.fetch.model_downloads import Download, ModelDownloads
from oellm.fetch.task_process import TaskProcess
from oellm.fetch.task_records import Obstacle
from oellm.hub import cache, repositories
from oellm.hub.errors import Problem
from oellm.hub.repositories import HubModel
from oellm.manifest import csv_file, locations
from oellm.manifest import rows as manifest
from oellm.manifest.rows import Row
from oellm.models import local_models, model_directory
from oellm.task_sources.cache import source_directories
from oellm.task_sources.errors import SourceError, UncachedSourceError
from oellm.task_sources.source_fetcher import SourceFetcher

# Line numbers that one message names.
_LINES_SHOWN = 10
# Columns that --check adds; a row that is fetched loses them.
CHECK_COLUMNS = ("reason", "remedy")
_ADDED_COLUMNS = (
    *("model_revision", "model_bytes"),
    *("dataset_revision", "task_digest", "task_version"),
    *("n_docs", "n_requests", "request_types"),
)


class Finding(NamedTuple):
    """What keeps a row from being evaluated.

    Attributes:
        column: The column to blame.
        problem: The reason.
        remedy: A command or option that would help, if one is enough; else empty.
    """

    column: str
    problem: Problem
    remedy: str = ""


@dataclass(frozen=True)
class FetchFailure:
    """A finding, and the lines of the manifest that it is about."""

    source: str
    lines: tuple[int, ...]
    finding: Finding

    def __str__(self) -> str:
        shown = ",".join(map(str, self.lines[:_LINES_SHOWN]))
        more = len(self.lines) - _LINES_SHOWN
        place = f"{shown} and {more} more" if more > 0 else shown
        text = f"{self.source}:{place}: {self.finding.column}: {self.finding.problem.text}"
        return f"{text}; to fix it: {self.finding.remedy}" if self.finding.remedy else text


@dataclass(frozen=True)
class FetchOutcome:
    """What was fetched.

    Attributes:
        columns: The columns of the rows.
        rows: The rows whose model and task were fetched, in order.
        failures: Why the other rows failed.
    """

    columns: list[str]
    rows: list[Row]
    failures: list[FetchFailure]


def read_rows(
    stream: TextIO, source: str, log: Log, *, skipped: list[Row]
) -> tuple[list[str], list[Row]]:
    """Read the columns of a manifest, and its rows, which can be fetched.

    `log` gets what is doubtful. `skipped` gets the rows of frameworks that only other tools run.
    Raises InputError for anything wrong in it, also for an eval_id that is not the row's, and
    for values that the row's framework cannot use.
    """
    rows = []
    reader = csv_file.ManifestReader(stream, source, log)
    for row in frameworks.select_runnable(reader, log, skipped=skipped):
        frameworks.require_known_values(row)
        if row["eval_id"]:
            manifest.identify_row(locations.locate_row(row))
        rows.append(row)
    return reader.header, rows


def fetched_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns of fetched rows, of a manifest with these columns."""
    kept = [name for name in columns if name not in CHECK_COLUMNS]
    return list(dict.fromkeys([*kept, *_ADDED_COLUMNS]))


class Fetcher:
    """Fetches each model and each task of the rows once.

    If the hub gives no answer, `hub_problem` says so; then only rows pass that need no hub or find
    everything in the cache. `log` gets our messages, `relay` the lines of other processes, and
    `status` shows a line on the terminal, if there is one.
    """

    def __init__(
        self,
        cluster: Cluster,
        address: str,
        hub_problem: Problem | None,
        *,
        jobs: int,
        log: Log,
        relay: Log,
        status: Log | None,
    ) -> None:
        self._models = ModelDownloads(address, hub_problem, jobs, log=log, status=status)
        self._sources = SourceFetcher(os.environ, hub_problem, log)
        self._tasks = TaskProcess(cluster, fetch=hub_problem is None, jobs=jobs, relay=relay)

    def fetch(self, rows: list[Row]) -> FetchOutcome:
        """Fetch what the rows need; return them with what was learned about them.

        Raises MachineError if the environment of the jobs cannot be started. After that, or an
        interrupt, no further download begins; call it once.
        """
        located = [*map(locations.Locator().locate, rows)]
        # First, because only they tell what the tasks need.
        pinned = [_pin(row, self._sources.pin) for row in located]
        needs = [need for need in pinned if isinstance(need, Row)]
        self._tasks.require(needs)
        passed: list[Row] = []
        found: dict[Finding, list[Row]] = {}
        with self._models:
            self._models.start(
                model for need in needs for model in repositories.row_repositories(need)
            )
            # At the same time, in processes of their own.
            self._tasks.ask(needs)
            for row, need in zip(rows, pinned, strict=True):
                if isinstance(need, Finding):
                    found.setdefault(need, []).append(row)
                    continue
                findings = list(self._findings(need))
                for finding in findings:
                    found.setdefault(finding, []).append(row)
                if not findings:
                    passed.append(self._complete(row, need))
        columns = rows[0].cells if rows else schema.required("manifest")
        return FetchOutcome(fetched_columns(columns), passed, group_failures(found))

    def _findings(self, need: Row) -> Iterator[Finding]:
        if need.model.is_local and (text := local_models.find_local_problem(need)):
            yield Finding("model_path", Problem(text))
        for model in repositories.row_repositories(need):
            fetched = self._models.result(model)
            if isinstance(fetched, Problem):
                yield Finding("model_path", fetched)
            elif text := _snapshot_problem(model, fetched.directory, need):
                yield Finding("model_path", Problem(f"{model}: {text}"))
        for finding in _task_findings(self._tasks, need):
            # If fetching did not help, fetching is no remedy.
            yield finding._replace(remedy="") if finding.problem.unreachable else finding

    def _complete(self, row: Row, need: Row) -> Row:
        """Return a row with the columns that planning needs."""
        model = (
            None
            if need.model.is_local
            else self._models.result(next(repositories.row_repositories(need)))
        )
        commit = model.commit if isinstance(model, Download) else ""
        size = model.bytes if isinstance(model, Download) else local_models.count_bytes(need)
        facts = self._tasks.answer(need)
        assert not isinstance(facts, Obstacle)
        changed = row["model_revision"] != commit
        # As the row writes them, but for the commits.
        sources = self._sources.pin(row["include_path"])
        if sources != row["include_path"]:
            changed, row = True, row.with_cells(include_path=sources)
        row = row.without(*CHECK_COLUMNS).with_cells(
            model_revision=commit,
            model_bytes=str(size),
            dataset_revision=facts.dataset_revision,
            task_digest=facts.task_digest,
            task_version=facts.task_version,
            n_docs=str(facts.n_docs),
            n_requests=str(sum(facts.requests.values())),
            request_types=",".join(f"{kind}={count}" for kind, count in facts.requests.items()),
        )
        # The identity depends on the commits, too; the next stage computes it anew.
        return row.with_cells(eval_id="") if changed and row["eval_id"] else row


class Checker:
    """Tells whether rows can start without a network; downloads nothing.

    `fetch_command` is the command that would fetch what is missing.
    """

    def __init__(self, cluster: Cluster, jobs: int, *, fetch_command: str, relay: Log) -> None:
        self._tasks = TaskProcess(cluster, fetch=False, jobs=jobs, relay=relay)
        self._fetch_command = fetch_command

    def check(self, rows: list[Row]) -> list[tuple[Row, list[Finding]]]:
        """Return each row with what keeps it from being evaluated.

        Raises MachineError if the environment of a stage is missing, or cannot be started.
        """
        located = map(locations.Locator().locate, rows)
        needs = [_pin(row, _require_cached) for row in located]
        found = [need for need in needs if isinstance(need, Row)]
        self._tasks.require(found)
        self._tasks.ask(found)
        return [
            (row, [*map(self._with_remedy, self._findings(need))])
            for row, need in zip(rows, needs, strict=True)
        ]

    def _findings(self, need: Row | Finding) -> Iterator[Finding]:
        if isinstance(need, Finding):
            yield need
            return
        if need.model.is_local and (text := local_models.find_local_problem(need)):
            yield Finding("model_path", Problem(text))
        for model in repositories.row_repositories(need):
            directory = cache.find_snapshot(model.path, model.revision or "main")
            text = _snapshot_problem(model, directory, need) if directory else "not in the cache"
            if text is not None:
                yield Finding("model_path", Problem(f"{model}: {text}", unreachable=True))
        yield from _task_findings(self._tasks, need)

    def _with_remedy(self, finding: Finding) -> Finding:
        if not finding.problem.unreachable:
            return finding
        return finding._replace(remedy=self._fetch_command)


def _pin(row: Row, pin: Callable[[str], str]) -> Row | Finding:
    """Return a row with its sources of tasks as `pin` returns them, or why that is impossible."""
    text = row["include_path"]
    try:
        pinned = pin(text)
    except SourceError as error:
        return Finding("include_path", Problem(error.message, error.is_unreachable))
    return row.with_cells(include_path=pinned) if pinned != text else row


def _require_cached(text: str) -> str:
    """Return the sources of a row; raises SourceError if oe-fetch has not fetched all of them."""
    try:
        source_directories(text, os.environ)
    except UncachedSourceError as error:
        raise SourceError(error.message, is_unreachable=True) from None
    return text


def _task_findings(tasks: TaskProcess, need: Row) -> Iterator[Finding]:
    """Yield what keeps the task of a row from being evaluated."""
    answer = tasks.answer(need)
    if isinstance(answer, Obstacle):
        yield Finding(answer.column, answer.problem, answer.remedy)


def group_failures(found: dict[Finding, list[Row]]) -> list[FetchFailure]:
    """Return each finding with the lines of its rows."""
    return [
        FetchFailure(rows[0].source, tuple(row.line or 0 for row in rows), finding)
        for finding, rows in found.items()
    ]


def _snapshot_problem(model: HubModel, directory: str, need: Row) -> str | None:
    """Return why a row's model in the cache cannot be loaded; None for other repositories."""
    if model.path != need.model.path:
        return None
    return model_directory.find_directory_problem(directory, local_models.text_arguments(need))
