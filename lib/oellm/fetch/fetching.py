"""Fetching what the rows of a manifest need: models, data sets, metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TextIO

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.core import schema
from oellm.fetch.model_downloads import Download, ModelDownloads, Report
from oellm.fetch.task_process import TaskProcess
from oellm.hub import cache, repositories
from oellm.hub.errors import Problem
from oellm.hub.repositories import HubModel
from oellm.manifest import csv_file
from oellm.manifest import rows as manifest
from oellm.manifest.rows import Row
from oellm.models import local_models, model_directory

# Line numbers that one message names.
_LINES_SHOWN = 10
# Columns of the rows that --check prints; they end where a row is fetched.
CHECK_COLUMNS = ("reason", "remedy")
_ADDED_COLUMNS = (
    *("model_revision", "model_bytes"),
    *("dataset_revision", "n_docs", "n_requests", "request_types"),
)


class Finding(NamedTuple):
    """What keeps a row from being evaluated: the column to blame, and what would mend it."""

    column: str
    problem: Problem
    # A command or an option, where one is enough.
    remedy: str = ""


@dataclass(frozen=True)
class Failure:
    """A finding, and the lines that it is about."""

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
class Outcome:
    """The rows whose model and task were fetched, in order, and what failed of the others."""

    columns: list[str]
    rows: list[Row]
    failures: list[Failure]


def read_rows(stream: TextIO, source: str) -> tuple[list[str], list[Row]]:
    """Read the columns of a manifest, and its rows, which can be fetched.

    Raises InputError for anything wrong in it, an eval_id that is not the row's among that.
    """
    rows = []
    reader = csv_file.ManifestReader(stream, source)
    for row in reader:
        frameworks.require_runnable(row)
        if row["eval_id"]:
            manifest.identified(manifest.located(row))
        rows.append(row)
    return reader.header, rows


def fetched_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns of fetched rows, of a manifest with these columns."""
    kept = [name for name in columns if name not in CHECK_COLUMNS]
    return list(dict.fromkeys([*kept, *_ADDED_COLUMNS]))


class Fetcher:
    """Fetches each model and each task of the rows once.

    `hub_problem` says that the hub gives no answer: then only what needs no hub, or what is in
    the cache, goes through.
    """

    def __init__(
        self,
        cluster: Cluster,
        address: str,
        hub_problem: Problem | None,
        *,
        jobs: int,
        report: Report,
        relay: Report,
        status: Report | None,
    ) -> None:
        self._models = ModelDownloads(address, hub_problem, jobs, report, status)
        self._tasks = TaskProcess(cluster, hub_problem is None, jobs, relay)

    def fetch(self, rows: list[Row]) -> Outcome:
        """Fetch what the rows need; return them with what was learned about them.

        Raises MachineError where the environment of the jobs cannot be started.
        """
        needs = [*map(manifest.Locator().located, rows)]
        self._tasks.require(needs)
        self._models.start(model for row in needs for model in repositories.repositories(row))
        # In processes of their own, so at the same time.
        self._tasks.ask(needs)
        passed: list[Row] = []
        found: dict[Finding, list[Row]] = {}
        for row, need in zip(rows, needs, strict=True):
            findings = list(self._findings(need))
            for finding in findings:
                found.setdefault(finding, []).append(row)
            if not findings:
                passed.append(self._completed(row, need))
        columns = rows[0].cells if rows else schema.required("manifest")
        return Outcome(fetched_columns(columns), passed, failures(found))

    def _findings(self, need: Row) -> Iterator[Finding]:
        if need.model.is_local and (text := local_models.problem(need)):
            yield Finding("model_path", Problem(text))
        for model in repositories.repositories(need):
            fetched = self._models.result(model)
            if isinstance(fetched, Problem):
                yield Finding("model_path", fetched)
            elif text := _snapshot_problem(model, fetched.directory, need):
                yield Finding("model_path", Problem(f"{model}: {text}"))
        for finding in _task_findings(self._tasks, need):
            # Where fetching did not help, fetching is no remedy.
            yield finding._replace(remedy="") if finding.problem.unreachable else finding

    def _completed(self, row: Row, need: Row) -> Row:
        """Return a row with the columns that planning needs."""
        model = (
            None
            if need.model.is_local
            else self._models.result(next(repositories.repositories(need)))
        )
        commit = model.commit if isinstance(model, Download) else ""
        size = model.bytes if isinstance(model, Download) else local_models.size(need)
        facts = self._tasks.record(need)
        requests: dict[str, int] = facts["requests"]
        changed = row["model_revision"] != commit
        row = row.without(*CHECK_COLUMNS).with_cells(
            model_revision=commit,
            model_bytes=str(size),
            dataset_revision=facts["dataset_revision"],
            n_docs=str(facts["n_docs"]),
            n_requests=str(sum(requests.values())),
            request_types=",".join(f"{kind}={count}" for kind, count in requests.items()),
        )
        # The identity is over the revision too; the next stage computes it anew.
        return row.with_cells(eval_id="") if changed and row["eval_id"] else row


class Checker:
    """Tells whether rows can start without a network; downloads nothing.

    `again` is the command that would fetch what is missing.
    """

    def __init__(self, cluster: Cluster, jobs: int, again: str, relay: Report) -> None:
        self._tasks = TaskProcess(cluster, False, jobs, relay)
        self._again = again

    def check(self, rows: list[Row]) -> list[tuple[Row, list[Finding]]]:
        """Return each row with what keeps it from being evaluated.

        Raises MachineError where the environment of the jobs cannot be started.
        """
        needs = [*map(manifest.Locator().located, rows)]
        self._tasks.ask(needs)
        return [
            (row, [self._mended(finding) for finding in self._findings(need)])
            for row, need in zip(rows, needs, strict=True)
        ]

    def _findings(self, need: Row) -> Iterator[Finding]:
        if need.model.is_local and (text := local_models.problem(need)):
            yield Finding("model_path", Problem(text))
        for model in repositories.repositories(need):
            directory = cache.snapshot(model.path, model.revision or "main")
            text = _snapshot_problem(model, directory, need) if directory else "not in the cache"
            if text:
                yield Finding("model_path", Problem(f"{model}: {text}", unreachable=True))
        yield from _task_findings(self._tasks, need)

    def _mended(self, finding: Finding) -> Finding:
        return finding._replace(remedy=self._again) if finding.problem.unreachable else finding


def _task_findings(tasks: TaskProcess, need: Row) -> Iterator[Finding]:
    """Yield what keeps the task of a row from being evaluated."""
    record = tasks.record(need)
    if "problem" in record:
        problem = Problem(record["problem"], record["unreachable"])
        yield Finding(record["column"], problem, record["remedy"])


def failures(found: dict[Finding, list[Row]]) -> list[Failure]:
    """Return each finding with the lines of its rows."""
    return [
        Failure(rows[0].source, tuple(row.line or 0 for row in rows), finding)
        for finding, rows in found.items()
    ]


def _snapshot_problem(model: HubModel, directory: str, need: Row) -> str:
    """Return why a repository in the cache cannot be loaded; only models are looked into."""
    is_own = model.path == need.model.path
    return model_directory.problem(directory, local_models.arguments(need)) if is_own else ""
