"""Which results are out of date: computed from something else than would be evaluated now."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.core.log import Log
from oellm.core.regular_files import read_regular
from oellm.frameworks.current_contents import ContentsReader
from oellm.manifest.rows import Row
from oellm.runs.accepted_contents import (
    AcceptedContents,
    AcceptedTask,
    describe_states,
    model_source,
    read_accepted,
    task_source,
)
from oellm.runs.contents import Contents, find_changes
from oellm.runs.result_record import ResultRecord
from oellm.runs.run_directory import Run
from oellm.runs.stages.stage_record import StageRecord

_State = TypeVar("_State")
_COMPANIONS = ("tokenizer", "peft", "delta")


class ResultOrigin(NamedTuple):
    """What a result was computed from.

    Attributes:
        contents: The states of its model, task and data, as far as they are known.
        framework_version: The version of the framework; empty if unknown.
    """

    contents: Contents
    framework_version: str

    @classmethod
    def of(cls, row: Row, record: ResultRecord) -> ResultOrigin:
        """Return what a row's result was computed from.

        Results of earlier versions have no contents, but their provenance tells of a local model's
        own directory.
        """
        contents, version = record.contents, record.environment.framework_version
        is_known = contents.model or not row.model.is_local
        if not is_known and not any(map(row.model_arguments.get, _COMPANIONS)):
            contents = contents._replace(model=_earlier_digest(row, record))
        return cls(contents, version)


def _earlier_digest(row: Row, record: ResultRecord) -> str:
    """Return the digest of a local model that a result without contents tells of."""
    if (identity := record.model_identity) is None:
        return ""
    arguments = row.model_arguments
    directory = os.path.join(row.model.path, str(arguments.get("subfolder", "")))
    return identity.digest_as_today(directory, str(arguments.get("gguf_file") or ""))


class Staleness(NamedTuple):
    """How a result is out of date.

    Attributes:
        changes: What has changed, for the user.
        is_of_model: Whether that is, among others, the model.
        states: The states that the result is of, as contents.json keeps them.
    """

    changes: tuple[str, ...]
    is_of_model: bool
    states: tuple[str, ...]

    def describe(self, row: Row) -> str:
        """Return what a result of this row is of and what has changed: ` of MODEL: CHANGES`."""
        model = f" of {row['model_path']}" if self.is_of_model else ""
        return f"{model}: {', '.join(self.changes)}"


class StaleResults:
    """Tells which results of a run are of another state than would be evaluated now."""

    def __init__(self, run: Run, log: Log) -> None:
        self._before = read_accepted(run.path)
        self._reader = ContentsReader(_cluster(run), log, self._before.directories)
        self._kept = set(self._before.kept)
        self._models: dict[str, str] = {}
        self._tasks: dict[str, AcceptedTask] = {}
        self._accepted: set[tuple[str, ...]] = set()

    def look_at(self, rows: Iterable[Row]) -> None:
        """Look at the models of many rows at once."""
        self._reader.models.look_at(rows)

    def find(self, row: Row, origin: ResultOrigin) -> Staleness | None:
        """Return how a row's result is out of date; None if it fits, as far as is known."""
        return find_staleness(row, origin, self._reader, kept=self._kept)

    def find_output(self, row: Row, record: StageRecord) -> Staleness | None:
        """Return how the output of a row's first stage is out of date; None if it fits."""
        return find_output_staleness(row, record, self._reader, kept=self._kept)

    def keep(self, states: Iterable[str]) -> None:
        """Let results of these earlier states count from now on."""
        self._kept.update(states)

    def accept(self, row: Row) -> None:
        """Note the state that a row would be evaluated from now."""
        model, task = row["model_path"], row["task_path"]
        key = (
            model,
            row["model_args"],
            row["model_revision"],
            task,
            row["include_path"],
            row["eval_suite"],
        )
        if key in self._accepted:
            return
        self._accepted.add(key)
        if digest := self._reader.models.digest(row):
            self._models[model_source(row)] = digest
        state = self._reader.task(row)
        if not state.digest:
            state = AcceptedTask(row["task_digest"], row["task_version"])
        if any(state):
            self._tasks[task_source(row)] = state

    @property
    def accepted(self) -> AcceptedContents:
        """What contents.json should say, once all rows were accepted."""
        directories = self._reader.models.directories
        return AcceptedContents(
            self._models, self._tasks, kept=frozenset(self._kept), directories=directories
        )

    def merge_into(self, found: AcceptedContents) -> AcceptedContents:
        """Return `accepted`, with what another process has accepted since this one looked."""
        before, ours = self._before, self.accepted
        return AcceptedContents(
            models={**ours.models, **_since(before.models, found.models)},
            tasks={**ours.tasks, **_since(before.tasks, found.tasks)},
            kept=ours.kept | found.kept,
            directories={**found.directories, **ours.directories},
        )


def _since(before: Mapping[str, _State], now: Mapping[str, _State]) -> dict[str, _State]:
    """Return what is new or different now."""
    return {source: state for source, state in now.items() if before.get(source) != state}


def _cluster(run: Run) -> Cluster:
    """Return the cluster of a run, for a ContentsReader of this Python.

    If the run has another Python, the tasks that come with a framework are those of that one.
    """
    settings = run.content["cluster"]
    call = f"evaluate=({shlex.quote(sys.executable)} "
    if any(call in _read_text(run.path / array.script) for array in run.arrays):
        return Cluster(settings, {})
    return Cluster({**settings, "executor": "slurm", "venv": "", "venvs": {}}, {})


def _read_text(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def find_staleness(
    row: Row, origin: ResultOrigin, reader: ContentsReader, kept: Collection[str]
) -> Staleness | None:
    """Return how a row's result is out of date; None if it fits, as far as is known.

    Results of the states that are `kept` fit, too.
    """
    used, now = origin.contents, reader.read(row)
    if used == now:
        return None
    if not reader.is_comparable(row, origin.framework_version):
        now = now._replace(task="")
    states = describe_states(used, row["task_path"])
    used = used._replace(**{name: "" for name, text in states.items() if text in kept})
    if not (changes := find_changes(used, now, row["task_path"])):
        return None
    differing = [
        states[name]
        for name, old, new in zip(Contents._fields, used, now, strict=True)
        if old and new and old != new
    ]
    is_of_model = bool(find_changes(Contents(used.model), Contents(now.model)))
    return Staleness(tuple(changes), is_of_model, tuple(differing))


def find_output_staleness(
    row: Row, record: StageRecord, reader: ContentsReader, kept: Collection[str]
) -> Staleness | None:
    """Return how the output of the first of a row's two stages is out of date; None if it fits.

    It is compared with what the first stage would be computed from now, which may be of a task that
    several tasks have in common.
    """
    origin = ResultOrigin(record.contents, record.environment.framework_version)
    return find_staleness(frameworks.generation_row(row), origin, reader, kept=kept)
