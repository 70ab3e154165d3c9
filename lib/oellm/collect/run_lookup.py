"""Looks a manifest's rows up, by eval_id, in all runs below some directories.

Several processes read the runs, so that a thousand of them take seconds.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.run_rows import complete_rows
from oellm.collect import result_files
from oellm.core.csv_records import CsvReader
from oellm.core.log import Log
from oellm.core.processes.process_map import map_in_processes
from oellm.core.regular_files import open_regular_text
from oellm.core.text_enum import TextEnum
from oellm.errors import InputError, OellmError
from oellm.frameworks.current_contents import ContentsReader
from oellm.frameworks.stages import GENERATE
from oellm.frameworks.stale_results import ResultOrigin, find_staleness
from oellm.manifest import rows as manifest
from oellm.manifest.rows import Row
from oellm.manifest.task_source import without_commits
from oellm.runs import activity
from oellm.runs.accepted_contents import read_accepted
from oellm.runs.activity import Activity
from oellm.runs.result_file import read_record
from oellm.runs.result_record import ResultRecord
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import FAILURES, JOBS, Run
from oellm.runs.stages.stage_store import StageStore

_SHARD = re.compile(r"[0-9]{1,9}")


class RowState(TextEnum):
    """What the runs say of a row."""

    # It has a valid result.
    DONE = "done"
    # Its shard is queued or running.
    ACTIVE = "active"
    # Its shard was submitted, and nothing tells that it ended.
    PROBABLE = "probable"
    # It has neither, but a run has a record of its failure.
    FAILED = "failed"
    MISSING = "missing"


class _Wanted(NamedTuple):
    """What is looked for.

    Attributes:
        rows: The rows as oe-render would complete them, by eval_id.
        unpinned: Of these, the ones of hub models at no particular commit.
        models: The models of the unpinned rows, without their arguments.
        of_sources: The eval_ids of rows whose sources of tasks are pinned, by the eval_id that they
            would have at any commit.
    """

    rows: Mapping[str, Row]
    unpinned: frozenset[str]
    models: frozenset[str]
    of_sources: Mapping[str, set[str]]


class _RunFindings(NamedTuple):
    """What one run says of wanted rows.

    Attributes:
        done: The eval_ids with a valid result, as they are wanted.
        stale: What has changed since other valid results were computed, by eval_id.
        pinned: Of these, the ones whose result is at a commit that the manifest does not name.
        moved: Those of `done` whose result is of another commit of the task's source.
        failed: The eval_ids with a record of their failure.
        shards: The shards of the wanted rows without a valid result.
        problems: What cannot be read, a line each.
    """

    done: set[str]
    stale: dict[str, str]
    pinned: set[str]
    moved: set[str]
    failed: set[str]
    shards: dict[str, set[int]]
    problems: list[str]


def find_states(
    rows: Sequence[Row],
    runs: Sequence[Run],
    cluster: Cluster,
    *,
    log: Log,
    accept_stale: bool = False,
) -> list[RowState]:
    """Return what runs say of each row.

    A row is identified as oe-render would identify it on this cluster. A row of a hub model that
    names no commit is done with a result at any commit, since oe-fetch pins it later. A row whose
    source of tasks is pinned is done with a result of another commit in which the task is the same.
    Results that are out of date do not count, unless `accept_stale` is set. `log` gets what cannot
    be read, and what has changed. Raises InputError for a row that carries another eval_id than its
    own.
    """
    completed = list(complete_rows(rows, cluster))
    unpinned = [row for row in completed if not row["model_revision"] and not row.model.is_local]
    wanted = _Wanted(
        rows={row["eval_id"]: row for row in completed},
        unpinned=frozenset(row["eval_id"] for row in unpinned),
        models=frozenset(row.model.path for row in unpinned),
        of_sources=_group_by_source(completed),
    )
    reader = None if accept_stale else ContentsReader(cluster, log, {})
    if reader is not None:
        # Here and not in each of the forks, which inherit what it has seen.
        reader.models.look_at(completed)
        for row in completed:
            reader.read(row)
    found = list(map_in_processes(_RunSearch(wanted, reader), runs))
    for problem in (problem for findings in found for problem in findings.problems):
        log(problem)
    done = set().union(*(findings.done for findings in found))
    stale = {row: text for findings in found for row, text in findings.stale.items()}
    for text, count in Counter(text for row, text in stale.items() if row not in done).items():
        log(f"stale: {'1 result' if count == 1 else f'{count} results'}{text}")
    states = dict.fromkeys(wanted.rows, RowState.MISSING)
    states |= dict.fromkeys(set().union(*(findings.failed for findings in found)), RowState.FAILED)
    states |= _active_states(
        zip(runs, found, strict=True), done, cluster=cluster.text("name"), log=log
    )
    states |= dict.fromkeys(done, RowState.DONE)
    _report_commits(found, log)
    return [states[row["eval_id"]] for row in completed]


def _report_commits(found: Sequence[_RunFindings], log: Log) -> None:
    """Tell which results count although the manifest does not name their commit."""
    if moved := set().union(*(findings.moved for findings in found)):
        log(
            f"{len(moved)} rows have results of another commit of the task's source, in which the "
            "task is the same"
        )
    if pinned := set().union(*(findings.pinned for findings in found)):
        log(
            f"{len(pinned)} rows have results at a commit of the hub, and the manifest names none; "
            "to look for the newest commit, run oe-fetch before oe-missing"
        )


def _group_by_source(rows: Iterable[Row]) -> dict[str, set[str]]:
    """Return the eval_ids of rows with pinned sources of tasks, by that at any commit."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if any_commit := _without_source_commit(row.cells):
            found.setdefault(any_commit, set()).add(row["eval_id"])
    return found


def _without_source_commit(cells: Mapping[str, str]) -> str:
    """Return the eval_id of a row without the commits of its task's sources; empty without them."""
    sources = cells.get("include_path", "")
    if "@" not in sources:
        return ""
    try:
        text = without_commits(sources)
        return manifest.eval_id(Row({**cells, "include_path": text})) if text else ""
    except (ValueError, InputError):
        # In the manifest of an earlier version, which knew other paths.
        return ""


def _active_states(
    found: Iterable[tuple[Run, _RunFindings]], done: set[str], cluster: str, log: Log
) -> dict[str, RowState]:
    """Return the rows without a result that are being evaluated, or may be."""
    unfinished = []
    for run, findings in found:
        shards = {row: numbers for row, numbers in findings.shards.items() if row not in done}
        try:
            if shards and run.submissions:
                unfinished.append((run, shards))
        except InputError as error:
            log(_is_unknown(error))
    queue = activity.ask_queue_of_runs([run for run, _ in unfinished], cluster, log)
    states: dict[str, RowState] = {}
    for run, shards in unfinished:
        try:
            active = activity.find_activity(run, queue)
        except (InputError, OSError) as error:
            log(_is_unknown(error))
            continue
        for row, numbers in shards.items():
            activities = {active[number] for number in numbers if number in active}
            if Activity.ACTIVE in activities:
                states[row] = RowState.ACTIVE
            elif activities:
                states.setdefault(row, RowState.PROBABLE)
    return states


def _is_unknown(error: InputError | OSError) -> str:
    """Return the message that nobody can tell what a run still evaluates."""
    return f"{_describe(error)}; what this run still evaluates is not known"


def _describe(error: InputError | OSError) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


class _RunSearch:
    """Looks for wanted rows in a run; called in forks of this process."""

    def __init__(self, wanted: _Wanted, reader: ContentsReader | None) -> None:
        self._wanted = wanted
        self._reader = reader

    def __call__(self, run: Run) -> _RunFindings:
        found = _RunFindings(set(), {}, set(), moved=set(), failed=set(), shards={}, problems=[])
        run_dir = str(run.path)
        try:
            names = ResultStore(run.path).result_names()
        except OSError as error:
            found.problems.append(f"{_describe(error)}; this run is left out")
            return found
        # By the eval_id that a row has in this run, at a commit or not, those that it answers.
        stems = (name[: -len(".json")] for name in names if name.endswith(".json"))
        wanted = {stem: {stem} for stem in stems if stem in self._wanted.rows}
        moved: dict[str, set[str]] = {}
        shards: dict[str, set[int]] = {}
        try:
            for eval_id, in_run, computing in self._rows(run_dir, moved):
                wanted.setdefault(in_run, set()).add(eval_id)
                shards.setdefault(eval_id, set()).update(computing)
        except FileNotFoundError as error:
            # The run may have been deleted since it was found.
            if run.path.exists():
                found.problems.append(_is_unknown(error))
        except (OSError, InputError) as error:
            found.problems.append(_is_unknown(error))
        for in_run, eval_ids in wanted.items():
            self._look(run_dir, in_run, wanted=eval_ids, found=found)
        for in_run, eval_ids in moved.items():
            self._look_elsewhere(run_dir, in_run, wanted=eval_ids - found.done, found=found)
        found.shards.update({row: n for row, n in shards.items() if row not in found.done})
        return found

    def _rows(
        self, run_dir: str, moved: dict[str, set[str]]
    ) -> Iterator[tuple[str, str, set[int]]]:
        """Yield the wanted rows of a run: the eval_id wanted, that in the run, and the shards.

        The shard of a second stage counts only if there is something to evaluate. `moved` gets the
        rows that are wanted at another commit of their source, by the eval_id in the run.
        """
        stages = StageStore(Path(run_dir))
        path = os.path.join(run_dir, JOBS)
        with open_regular_text(path) as stream:
            reader = CsvReader(stream, path, ("eval_id", "shard", "model_path"))
            for line, texts in reader:
                cells = dict(zip(reader.header, texts, strict=True))
                in_run = cells["eval_id"]
                if self._wanted.of_sources and (key := _without_source_commit(cells)):
                    moved[in_run] = self._wanted.of_sources.get(key, set()) - {in_run}
                candidates = (in_run, self._without_commit(cells))
                for eval_id in self._wanted.rows.keys() & set(candidates):
                    shards = [cells["shard"]]
                    if (second := cells.get("evaluate_shard")) and _is_generated(cells, stages):
                        shards.append(second)
                    if not all(map(_SHARD.fullmatch, shards)):
                        raise InputError("expected a shard", path, line=line, column="shard")
                    yield eval_id, in_run, set(map(int, shards))

    def _without_commit(self, cells: dict[str, str]) -> str:
        """Return the eval_id of a row without its commit, if that is wanted; else nothing."""
        if not cells.get("model_revision"):
            return ""
        if cells["model_path"].partition(",")[0].strip() not in self._wanted.models:
            return ""
        try:
            found = manifest.eval_id(Row(cells).without("model_revision"))
        except InputError:
            return ""
        return found if found in self._wanted.unpinned else ""

    def _look(self, run_dir: str, in_run: str, wanted: set[str], found: _RunFindings) -> None:
        """See whether a row has a valid result in a run, or a record of its failure."""
        try:
            record = read_record(result_files.read_valid_result(run_dir, in_run))
        except FileNotFoundError:
            if os.path.exists(f"{run_dir}/{FAILURES}/{in_run}.json"):
                found.failed.update(wanted)
        except (OSError, ValueError) as error:
            found.problems.append(f"{result_files.result_path(run_dir, in_run)}: left out, {error}")
        else:
            stale = self._find_stale(run_dir, in_run, record, wanted=wanted)
            found.stale.update(stale)
            found.done.update(wanted - stale.keys())
            found.pinned.update(wanted - stale.keys() - {in_run})

    def _look_elsewhere(
        self, run_dir: str, in_run: str, *, wanted: set[str], found: _RunFindings
    ) -> None:
        """See whether the result of a row at another commit of its source is one of wanted rows.

        It is if the task is known to be the same.
        """
        if not wanted:
            return
        try:
            record = read_record(result_files.read_valid_result(run_dir, in_run))
        except (OSError, ValueError):
            return
        stale = self._find_stale(run_dir, in_run, record, wanted=wanted)
        for eval_id in wanted - stale.keys():
            row = self._wanted.rows[eval_id]
            task = self._reader.read(row).task if self._reader else row["task_digest"]
            if task and task == record.contents.task:
                found.done.add(eval_id)
                found.moved.add(eval_id)

    def _find_stale(
        self, run_dir: str, in_run: str, record: ResultRecord, *, wanted: set[str]
    ) -> dict[str, str]:
        """Return what has changed since a result was computed, for the wanted rows that mind."""
        if self._reader is None:
            return {}
        if "contents" not in record.content:
            # Of an earlier version: only its provenance tells.
            record = ResultStore(Path(run_dir)).valid_record(in_run) or record
        stale = {}
        for eval_id in wanted:
            row = self._wanted.rows[eval_id]
            origin = ResultOrigin.of(row, record)
            if find_staleness(row, origin, self._reader, kept=()) is not None:
                kept = read_accepted(Path(run_dir)).kept
                if (found := find_staleness(row, origin, self._reader, kept=kept)) is not None:
                    stale[eval_id] = found.describe(row)
        return stale


def _is_generated(cells: Mapping[str, str], stages: StageStore) -> bool:
    """Return whether a row's first stage of two has its output."""
    try:
        key = frameworks.generation_key(Row(cells))
    except OellmError:
        return False
    return stages.valid(key, GENERATE) is not None
