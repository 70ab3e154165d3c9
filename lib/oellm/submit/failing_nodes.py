"""Nodes that swallow jobs: what is sent there ends at once, and the node is free for the next.

A node with a broken GPU or a full disk so drains a whole array within minutes. A job that ends
before its first row was loaded is counted against its node; after two such ends oe-submit excludes
the node. If all nodes do it, the fault is not the nodes'.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from oellm.core.display import utc_now
from oellm.core.log import Log
from oellm.errors import ExitStatus, InputError, MachineError, OellmError
from oellm.runs import run_directory
from oellm.runs.heartbeat import Heartbeat, RowPhase, read_heartbeats
from oellm.runs.run_directory import Run
from oellm.runs.run_record import NodeRecord
from oellm.runs.shard_jobs import ShardJob, newest_jobs, read_log_end
from oellm.runs.submit_lock import SubmitLock
from oellm.slurm.job_ends import explain_end
from oellm.slurm.job_states import ACTIVE, ArrayTask, JobState, ask_accounting
from oellm.slurm.queue import ask_job_states
from oellm.submit import array_elements
from oellm.submit.array_elements import Element

# Names all nodes in --include_nodes.
ALL = "all"

# A job that ran longer has not been swallowed: it may have hung, or waited for a file system.
_SHORT_S = 600.0
# Signals with which somebody, or lack of memory, ends a job; none of them is the node's fault.
_FROM_OUTSIDE = {
    *(signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
}
# What is wrong with the run itself, or stopped the worker, is not the node's fault.
_NOT_OF_NODES = (ExitStatus.USAGE, ExitStatus.TRY_AGAIN)


class FailingNodes:
    """Counts, in run.json's `nodes`, the jobs that nodes have swallowed; `log` is told of news."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # What has been looked at; the end of a job does not change.
        self._seen: set[ArrayTask] = set()

    def look(self, run: Run, elements: Collection[Element], *, dry_run: bool = False) -> bool:
        """Count how the newest jobs of elements ended, which are not in the queue any more.

        Return whether a node is excluded from now on that was not before. `run` is changed, not
        saved; `dry_run` says that it never will be.
        """
        jobs = {
            task: members
            for task, members in _jobs_of(run, elements).items()
            if task not in self._seen
        }
        if not jobs:
            return False
        before = [record.key for record in run.nodes if record.is_excluded]
        heartbeats = read_beats(run)
        states, is_all = _ask_how_they_ended([members[0] for members in jobs.values()])
        for task, members in jobs.items():
            state = states.get(task)
            if state is None or state.state not in ACTIVE:
                # What Slurm did not answer is asked again.
                if state is not None or is_all:
                    self._seen.add(task)
                _count(run, task, members, state=state, beats=_beats_of(task, members, heartbeats))
        news = [r for r in run.nodes if r.is_excluded and r.key not in before]
        for record in news:
            node, reason = record.node, record.describe()
            if dry_run:
                self._log(f"node {node} would be excluded: {reason}")
            else:
                self._log(
                    f"node {node} is excluded from now on: {reason}; oe-submit "
                    f"--include_nodes={node} {run.path} undoes this"
                )
        return bool(news)

    def require_a_good_node(self, run: Run, elements: Iterable[Element]) -> None:
        """Raise MachineError if every node that jobs like these were sent to has swallowed them."""
        for cpu_only in {run.arrays[element.array].needs_no_gpu for element in elements}:
            self._require_good(run, [r for r in run.nodes if r.cpu_only == cpu_only])

    def _require_good(self, run: Run, records: list[NodeRecord]) -> None:
        """Raise MachineError if the nodes of some records are all bad."""
        bad = [record for record in records if record.is_excluded]
        if len(bad) < 2 or len(bad) < len(records):
            return
        first = min(record.since for record in bad)
        arrays = [run.arrays[shard.array] for shard in run.shards]
        beats = [
            beat
            for shard, beat in read_beats(run).items()
            if shard < len(arrays) and arrays[shard].needs_no_gpu == bad[0].cpu_only
        ]
        if any(shows_a_row(beat) and beat.attempt.updated > first for beat in beats):
            return
        names = ", ".join(record.node for record in bad)
        raise MachineError(
            f"nothing is submitted: all {len(bad)} nodes that jobs of this run were sent to "
            f"({names}) ended them before their first row was loaded: {bad[-1].reason}; "
            f"when that is mended: oe-submit --include_nodes={ALL} {run.path}"
        )


def include_nodes(path: Path, names: Collection[str], log: Log) -> None:
    """Let jobs of a run go to excluded nodes again; raises InputError for other names."""
    with SubmitLock(path):
        run = run_directory.load_run(path)
        excluded = run.excluded_nodes
        wanted = set(excluded) if ALL in names else set(names)
        if unknown := sorted(wanted - set(excluded)):
            listed = ", ".join(excluded) or "none"
            raise InputError(
                f"--include_nodes: {unknown[0]!r} is not excluded; excluded nodes: {listed}",
                str(path),
            )
        for position, record in enumerate(run.nodes):
            if record.node in wanted:
                forgiven = (*record.forgiven, *record.ended)
                run.nodes[position] = dataclasses.replace(record, ended=(), forgiven=forgiven)
                log(f"node {record.node} is included again")
        run.save()


def read_beats(run: Run) -> dict[int, Heartbeat]:
    """Return the heartbeats of a run; none if they cannot be read."""
    with contextlib.suppress(OSError):
        return read_heartbeats(run.path)
    return {}


def shows_a_row(heartbeat: Heartbeat) -> bool:
    """Return whether a worker has got as far as a row."""
    state = heartbeat.state
    at_work = any(row.phase in (RowPhase.SCORING, RowPhase.FINISHING) for row in state.rows)
    return bool(state.done or state.failed or state.scoring_s or at_work)


def _jobs_of(run: Run, elements: Iterable[Element]) -> dict[ArrayTask, list[ShardJob]]:
    """Return the newest job of each element that Slurm has had, with its shards."""
    newest, shards = newest_jobs(run), array_elements.shards_by_element(run)
    jobs: dict[ArrayTask, list[ShardJob]] = {}
    for shard in (shard for element in elements for shard in shards[element]):
        job = newest.get(shard)
        if job is not None and job.task is not None:
            jobs.setdefault(job.task, []).append(job)
    return jobs


def _ask_how_they_ended(jobs: Collection[ShardJob]) -> tuple[dict[ArrayTask, JobState], bool]:
    """Return what Slurm still knows, and whether it has answered all questions.

    The nodes are a help, so no answer is no error.
    """
    states: dict[ArrayTask, JobState] = {}
    submitted = {job.submission.slurm_job for job in jobs}
    with contextlib.suppress(OellmError):
        states = ask_job_states(filter(None, submitted))
        forgotten = {job.submission.slurm_job for job in jobs if job.task not in states}
        if forgotten:
            states = {**ask_accounting(filter(None, forgotten)), **states}
        return states, True
    return states, False


def _beats_of(
    task: ArrayTask, jobs: Iterable[ShardJob], heartbeats: Mapping[int, Heartbeat]
) -> list[Heartbeat]:
    """Return what the workers of a job have written."""
    beats = (heartbeats.get(job.shard) for job in jobs)
    name = f"{task.job_id}_{task.array_index}"
    return [
        beat for beat in beats if beat is not None and beat.attempt.job in (name, str(task.job_id))
    ]


def _count(
    run: Run,
    task: ArrayTask,
    jobs: list[ShardJob],
    *,
    state: JobState | None,
    beats: list[Heartbeat],
) -> None:
    """Note on which node a job was, and whether the node has swallowed it."""
    node = state.nodes if state is not None else ""
    if not node and beats:
        node = beats[0].host.partition(".")[0]
    # An element has one node; other texts are Slurm's for none, or for several.
    if not node or any(letter in node for letter in "[, "):
        return
    cpu_only = run.arrays[jobs[0].submission.array].needs_no_gpu
    positions = [n for n, record in enumerate(run.nodes) if record.key == (node, cpu_only)]
    if not positions:
        run.nodes.append(NodeRecord(node, cpu_only=cpu_only))
        positions = [len(run.nodes) - 1]
    record = run.nodes[positions[0]]
    if str(task) not in (*record.ended, *record.forgiven) and _is_swallowed(state, beats):
        run.nodes[positions[0]] = dataclasses.replace(
            record,
            ended=(*record.ended, str(task)),
            reason=_explain(run, jobs[0], state, beats=beats),
            since=record.since if record.ended else utc_now(),
        )


def _is_swallowed(state: JobState | None, beats: Iterable[Heartbeat]) -> bool:
    """Return whether a job ended soon, by itself and without success, before its first row."""
    if any(beat.state.unusable for beat in beats):
        return True
    if state is None or state.state != "FAILED" or any(map(shows_a_row, beats)):
        return False
    if state.start and state.end and (state.end - state.start).total_seconds() > _SHORT_S:
        return False
    # Slurm's reason does not help: it is JobLaunchFailure if somebody killed the script, too.
    number = state.signal or state.exit_code - 128
    return state.exit_code not in _NOT_OF_NODES and number not in _FROM_OUTSIDE


def _explain(run: Run, job: ShardJob, state: JobState | None, beats: Iterable[Heartbeat]) -> str:
    unusable = [beat.state.unusable for beat in beats if beat.state.unusable]
    if unusable:
        return unusable[0]
    path = job.find_log(run.path)
    end = explain_end(state, read_log_end(path) if path is not None else "")
    return f"{end.reason}: {end.last_line}" if end.last_line else end.reason
