"""Reads what a run's files, this machine and Slurm say of it, for run_status to join."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.processes import daemon_threads
from oellm.errors import OellmError
from oellm.frameworks.stages import EVALUATE
from oellm.frameworks.stale_results import ResultOrigin, Staleness, StaleResults
from oellm.manifest.rows import Row
from oellm.metrics import scored_rows
from oellm.metrics.records import find_remarks
from oellm.runs import run_directory
from oellm.runs.heartbeat import Heartbeat, read_heartbeats
from oellm.runs.result_file import Result, read_record
from oellm.runs.result_record import ResultRecord
from oellm.runs.result_store import RecordedFailure, ResultStore
from oellm.runs.run_directory import FAILURES, PROGRESS, RESULTS, Run
from oellm.runs.run_record import SHARD_COLUMNS
from oellm.runs.shard_jobs import ShardJob, newest_jobs, read_log_end
from oellm.slurm.job_states import ACTIVE, ArrayTask, JobState, ask_accounting
from oellm.slurm.queue import ask_job_states
from oellm.status.seen_outputs import SeenOutputs
from oellm.status.statuses import Evidence, LogEnd

_HEARTBEAT = re.compile(r"[0-9]+\.json")
_ACCOUNTING_OFF = re.compile(r"accounting storage is disabled|accounting_storage plugin")
# Seconds to wait for what is known of the directories of models.
_MODELS_S = 10.0

JobStates = dict[ArrayTask, JobState]


class _Compared(NamedTuple):
    """What results and outputs of first stages were computed from, compared with what is now.

    Attributes:
        stale: What has changed since valid results were computed, by eval_id.
        generated: The rows without a result that counts whose first stage has its output.
        stale_outputs: What has changed since the other outputs were computed, by eval_id.
    """

    stale: dict[str, str]
    generated: frozenset[str]
    stale_outputs: dict[str, str]


class Observer:
    """Looks at a run, again and again.

    `log` is told once of each thing that cannot be known. Without `asks_slurm` only the files
    count. A result is read and checked when it is first seen; since its file does not change after
    that, later looks only see whether it still exists. `on_result` is called with each valid result
    when it is first seen.
    """

    def __init__(
        self,
        run: Run,
        log: Log,
        *,
        asks_slurm: bool = True,
        on_result: Callable[[Result], None] | None = None,
    ) -> None:
        self._path = run.path
        self._asks_slurm = asks_slurm
        self._on_result = on_result
        self._log = log
        self._store = ResultStore(run.path)
        self._rows = list(run.rows())
        self._row_of = {row["eval_id"]: row for row in self._rows}
        # The rows with a valid result, and what that was computed from.
        self._valid: dict[str, ResultOrigin] = {}
        self._origins: dict[ResultOrigin, ResultOrigin] = {}
        self._stale: dict[str, str] = {}
        self._remarks: dict[str, str] = {}
        self._told: set[str] = set()
        self._outputs = SeenOutputs(run, self._rows, self._tell)

    def look(self) -> Evidence:
        """Return what is known now; raises InputError if run.json is damaged."""
        run = run_directory.load_run(self._path)
        # Slurm comes before the files, so that what a job wrote before it ended is seen.
        jobs = newest_jobs(run)
        states = self._ask_queue(jobs.values())
        heartbeats = self._read_heartbeats()
        self._find_valid()
        compared = self._compare(run)
        self._stale = compared.stale
        done = frozenset(self._valid.keys() - self._stale.keys())
        incomplete = {
            int(row[column])
            for row in self._rows
            if row["eval_id"] not in done
            for column in SHARD_COLUMNS
            if row[column]
        }
        ended = self._find_ended([jobs[n] for n in incomplete & jobs.keys()], states)
        states = self._add_accounting(states, ended)
        pids = {job.submission.job_id for job in jobs.values() if job.is_local}
        return Evidence(
            run=run,
            now=datetime.datetime.now(datetime.timezone.utc),
            rows=self._rows,
            done=done,
            generated=compared.generated,
            stale=self._stale,
            stale_outputs=compared.stale_outputs,
            remarks=self._remarks,
            failures=self._read_failures(done, jobs),
            heartbeats=heartbeats,
            jobs=states,
            logs=self._read_logs([*ended, *(job for job in jobs.values() if job.is_local)]),
            workers_here=frozenset(n for n, beat in heartbeats.items() if _works_here(beat)),
            submitters_here=frozenset(pid for pid in pids if pid and _is_submitter(pid)),
        )

    def _read_heartbeats(self) -> dict[int, Heartbeat]:
        directory = self._path / PROGRESS
        try:
            names = os.listdir(directory) if directory.exists() else []
            heartbeats = read_heartbeats(self._path)
        except OSError as error:
            self._tell(f"{error.filename}: {error.strerror}: what workers do is not known")
            return {}
        damaged = [
            name
            for name in names
            if _HEARTBEAT.fullmatch(name) and int(name[: -len(".json")]) not in heartbeats
        ]
        self._tell_damaged(directory, damaged, "what their workers did is not known")
        return heartbeats

    def _tell_damaged(self, directory: Path, names: Iterable[str], loss: str) -> None:
        """Tell which files cannot be read, and what is not known therefore."""
        if ordered := sorted(names):
            more = f" and {len(ordered) - 1} more" if len(ordered) > 1 else ""
            self._tell(f"{directory / ordered[0]}{more}: damaged: {loss}")

    def _ask_queue(self, jobs: Iterable[ShardJob]) -> JobStates | None:
        submitted = {job.submission.slurm_job for job in jobs} - {None}
        if not submitted:
            return {}
        if not self._asks_slurm:
            return None
        try:
            return ask_job_states(filter(None, submitted))
        except OellmError as error:
            self._tell(f"showing only what the files say: {error}")
            return None

    def _find_ended(
        self, jobs: Iterable[ShardJob], states: Mapping[ArrayTask, JobState] | None
    ) -> list[ShardJob]:
        """Return the jobs that ended, or were requeued."""
        ended = []
        for job in jobs:
            if job.task is None or states is None:
                continue
            state = states.get(job.task)
            if state is None or state.state not in ACTIVE or state.restarts:
                ended.append(job)
        return ended

    def _add_accounting(
        self, states: JobStates | None, jobs: Iterable[ShardJob]
    ) -> JobStates | None:
        """Add what only the accounting knows of jobs that ended."""
        if states is None:
            return None
        submitted = {
            job.task: job.submission.slurm_job
            for job in jobs
            if job.task not in states or states[job.task].state not in ACTIVE
        }
        if not submitted:
            return states
        try:
            known = ask_accounting(filter(None, set(submitted.values())))
        except OellmError as error:
            # squeue still knows what ended within the last minutes.
            if submitted.keys() - states.keys():
                is_off = _ACCOUNTING_OFF.search(str(error))
                why = "Slurm accounting is off" if is_off else f"no answer of sacct ({error})"
                self._tell(f"{why}: how jobs ended that Slurm has forgotten is not known")
            return states
        # The accounting may be late, or never learn of an end: squeue knows what is active.
        ended = {t: s for t, s in known.items() if t in submitted and s.state not in ACTIVE}
        return {**states, **ended}

    def _find_valid(self) -> None:
        names = self._store.result_names()
        before, self._valid = self._valid, {}
        damaged = []
        for row in self._rows:
            eval_id = row["eval_id"]
            if f"{eval_id}.json" in names:
                # Another result may have taken the place of one that was out of date.
                known = None if eval_id in self._stale else before.get(eval_id)
                origin = known or self._read_result(row)
                if origin is not None:
                    # Rows of one model and task share it.
                    self._valid[eval_id] = self._origins.setdefault(origin, origin)
                # oe-submit may have set a result aside just now.
                elif os.path.lexists(self._store.result_path(eval_id)):
                    damaged.append(f"{eval_id}.json")
        self._tell_damaged(self._path / RESULTS, damaged, "these rows have no result")

    def _read_result(self, row: Row) -> ResultOrigin | None:
        """Return what the result of a row was computed from; None if there is no valid one."""
        if self._on_result is None:
            record = self._store.valid_record(row["eval_id"])
            return None if record is None else self._note(row, record)
        result = self._store.valid_result(row["eval_id"])
        if result is None:
            return None
        self._on_result(result)
        return self._note(row, read_record(result))

    def _note(self, row: Row, record: ResultRecord) -> ResultOrigin:
        """Note what is not as asked in a result; return what it was computed from."""
        remarks = find_remarks(scored_rows.of_record(record, str(self._path)))
        self._remarks[row["eval_id"]] = "; ".join(remarks)
        return ResultOrigin.of(row, record)

    def _compare(self, run: Run) -> _Compared:
        """Return which results and outputs of first stages there are, and which are out of date."""
        # A thread, because the directory of a model may be on a file system that hangs.
        looking = daemon_threads.start_thread(lambda: self._compare_contents(run))
        try:
            return looking.result(_MODELS_S)
        except concurrent.futures.TimeoutError:
            self._tell(f"no word of the models in {_MODELS_S:.0f} s: results may be out of date")
            outputs = self._outputs.look(self._row_of.keys() - self._valid.keys())
            return _Compared({}, frozenset(outputs), stale_outputs={})

    def _compare_contents(self, run: Run) -> _Compared:
        contents = StaleResults(run, self._tell)
        valid = dict(self._valid)
        contents.look_at(self._row_of[eval_id] for eval_id in valid)
        results = {e: contents.find(self._row_of[e], origin) for e, origin in valid.items()}
        stale = _describe_changes(results)
        outputs = self._outputs.look(self._row_of.keys() - valid.keys() | stale.keys())
        contents.look_at(self._row_of[eval_id] for eval_id in outputs)
        stages = {e: contents.find_output(self._row_of[e], out) for e, out in outputs.items()}
        stale_outputs = _describe_changes(stages)
        generated = frozenset(outputs.keys() - stale_outputs.keys())
        return _Compared(stale, generated, stale_outputs=stale_outputs)

    def _read_failures(
        self, done: frozenset[str], jobs: Mapping[int, ShardJob]
    ) -> dict[str, RecordedFailure]:
        """Return the failures of rows that are not done, each with the log if there is one.

        A worker whose output goes through the executor `local` does not know its log.
        """
        failures = {}
        damaged = []
        names = self._store.failure_names()
        for row in self._rows:
            eval_id = row["eval_id"]
            if eval_id not in done and f"{eval_id}.json" in names:
                failure = self._store.failure(eval_id)
                # A worker that has evaluated the row by now has removed the file.
                if failure is None and os.path.lexists(self._store.failure_path(eval_id)):
                    damaged.append(f"{eval_id}.json")
                if failure is not None:
                    shard = row["evaluate_shard" if failure.stage == EVALUATE else "shard"]
                    job = jobs.get(int(shard or row["shard"])) if not failure.log else None
                    path = job.find_log(self._path) if job is not None else None
                    failures[eval_id] = replace(failure, log=str(path)) if path else failure
        self._tell_damaged(self._path / FAILURES, damaged, "why these rows failed is not known")
        return failures

    def _read_logs(self, jobs: Iterable[ShardJob]) -> dict[int, LogEnd]:
        logs = {}
        for job in jobs:
            path = job.find_log(self._path)
            with contextlib.suppress(OSError):
                if path is not None:
                    seconds = path.stat().st_mtime
                    modified = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
                    text = read_log_end(path)
                    logs[job.shard] = LogEnd(str(path), text, modified)
        return logs

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._log(text)


def _describe_changes(found: Mapping[str, Staleness | None]) -> dict[str, str]:
    """Return what has changed, by eval_id, where something has."""
    return {
        e: ", ".join(staleness.changes) for e, staleness in found.items() if staleness is not None
    }


def _works_here(heartbeat: Heartbeat) -> bool:
    """Return whether a worker runs on this machine outside of jobs; Slurm knows more of those."""
    is_in_job, has_ended = bool(heartbeat.attempt.job), bool(heartbeat.state.ended)
    return not is_in_job and not has_ended and heartbeat.is_alive_here()


def _is_submitter(pid: int) -> bool:
    """Return whether a process of this machine is an oe-submit."""
    try:
        return b"oe-submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
