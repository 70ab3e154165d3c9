"""What a run's files, this machine and Slurm say of it: the reading, for run_status to join."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from oellm.core import json_codec
from oellm.errors import OellmError
from oellm.runs import heartbeat
from oellm.runs.run_directory import Run
from oellm.slurm import job_states
from oellm.slurm.job_states import JobState, Key
from oellm.status import job_logs, run_status
from oellm.status.run_status import Evidence, Place

# Bytes at the end of a log in which Slurm's messages are looked for.
_LOG_END = 8192


class Observer:
    """Looks at a run, again and again; `report` is told once of what cannot be known.

    With `asks_slurm` off it goes by the files alone.
    A result is read and checked when it is first seen. Its file does not change after that, so
    that later looks only see whether it is still there.
    """

    def __init__(self, run: Run, report: Callable[[str], None], *, asks_slurm: bool = True) -> None:
        self.run = run
        self._asks_slurm = asks_slurm
        self._report = report
        self._rows = list(run.rows())
        self._valid: set[str] = set()
        self._reported: set[str] = set()

    def look(self) -> Evidence:
        """Return what is known now; raises InputError where run.json is damaged."""
        self.run.reload()
        # Before the files: what a job wrote before it ended is seen.
        places = run_status.places(self.run)
        jobs = self._queue(places.values())
        beats = heartbeat.read_all(self.run.path)
        done = self._done()
        ended = self._ended(
            places, {int(r["shard"]) for r in self._rows if r["eval_id"] not in done}, jobs
        )
        jobs = self._with_accounting(jobs, ended.values())
        pids = {p.job["job_id"] for p in places.values() if p.job["executor"] == "local"}
        return Evidence(
            now=datetime.datetime.now(datetime.timezone.utc),
            rows=self._rows,
            done=done,
            failures=self._failures(done),
            heartbeats=beats,
            jobs=jobs,
            logs={shard: self._log_end(shard, place) for shard, place in ended.items()},
            workers_here=frozenset(n for n, beat in beats.items() if _works_here(beat)),
            submitters_here=frozenset(pid for pid in pids if pid and _is_submitter(pid)),
        )

    def _queue(self, places: Iterable[Place]) -> dict[Key, JobState] | None:
        ids = {key[0] for place in places if (key := run_status.job_key(place)) is not None}
        if not ids:
            return {}
        if not self._asks_slurm:
            return None
        try:
            return job_states.in_queue(ids)
        except OellmError as error:
            self._tell(f"what follows is from files alone: {error}")
            return None

    def _ended(
        self, places: Mapping[int, Place], incomplete: set[int], jobs: Mapping[Key, JobState] | None
    ) -> dict[int, Place]:
        """Return the shards with something left whose jobs ended, or began anew."""
        found = {}
        for shard in incomplete & places.keys():
            key = run_status.job_key(places[shard])
            if key is None or jobs is None:
                continue
            job = jobs.get(key)
            if job is None or job.state not in job_states.ACTIVE or job.restarts:
                found[shard] = places[shard]
        return found

    def _with_accounting(
        self, jobs: dict[Key, JobState] | None, places: Iterable[Place]
    ) -> dict[Key, JobState] | None:
        """Add what only the accounting knows of jobs that ended."""
        keys = {key for place in places if (key := run_status.job_key(place)) is not None}
        if jobs is None or not keys:
            return jobs
        keys = {key for key in keys if key not in jobs or jobs[key].state not in job_states.ACTIVE}
        if not keys:
            return jobs
        try:
            known = job_states.in_accounting({job_id for job_id, _ in keys})
        except OellmError as error:
            self._tell(
                f"no accounting ({error}): it is not known who cancelled a job, nor how one ended "
                "that Slurm has forgotten"
            )
            return jobs
        # The accounting may be behind, or never learn of an end: squeue knows what is active.
        ended = {key for key in keys if key in known and known[key].state not in job_states.ACTIVE}
        return {**jobs, **{key: known[key] for key in ended}}

    def _done(self) -> frozenset[str]:
        names, store, done = self._names("results"), self.run.store, set()
        for row in self._rows:
            eval_id = row["eval_id"]
            if f"{eval_id}.json" in names and (
                eval_id in self._valid or store.valid_result(eval_id) is not None
            ):
                done.add(eval_id)
        self._valid = done
        return frozenset(done)

    def _failures(self, done: frozenset[str]) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        names = self._names("failures")
        for row in self._rows:
            eval_id = row["eval_id"]
            if eval_id not in done and f"{eval_id}.json" in names:
                # One that was just removed, or is no failure's record, says nothing.
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    content = self.run.store.failure_path(eval_id).read_bytes()
                    ours = json_codec.loads(content)["oellm"]
                    found[eval_id] = {**ours["failure"], "finished": ours["timing"]["finished"]}
        return found

    def _names(self, directory: str) -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return set(os.listdir(self.run.path / directory))
        return set()

    def _log_end(self, shard: int, place: Place) -> str:
        path = job_logs.of_worker(
            self.run.path,
            run_status.log_stem(self.run, shard, place),
            run_status.worker(self.run, shard, place),
        )
        return job_logs.end(path, _LOG_END) if path is not None else ""

    def _tell(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._report(text)


def _works_here(beat: heartbeat.Beat) -> bool:
    """Return whether a worker runs on this machine, and not in a job, of which Slurm knows more."""
    return not beat["job"] and not beat["ended"] and heartbeat.is_alive_here(beat)


def _is_submitter(pid: int) -> bool:
    """Return whether a process of this machine is an oe-submit."""
    try:
        return b"oe-submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
