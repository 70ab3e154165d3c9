"""Looks at a run and at the queue, and submits what is missing; once, or again and again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.paths import user_name
from oellm.errors import OellmError
from oellm.runs import run_directory
from oellm.runs.shard_jobs import newest_jobs
from oellm.runs.submit_lock import SubmitLock
from oellm.slurm.clusters import OWN, cluster_option
from oellm.slurm.commands import JobNumber, ask_slurm
from oellm.slurm.notation import format_ranges
from oellm.slurm.queue import QueuedElement
from oellm.submit import array_elements, queue_limits
from oellm.submit.array_elements import (
    Batch,
    Candidates,
    Element,
    Placement,
    QueueFit,
    UnfinishedRows,
)
from oellm.submit.failing_nodes import FailingNodes, read_beats
from oellm.submit.queue_limits import Limit, QueueRules
from oellm.submit.queue_pauses import have_workers_ended
from oellm.submit.stale_rows import StaleRows
from oellm.submit.submission import NoRoomError, SlurmSubmissions

# How the command line of a submission names a job whose number is not known yet.
_UNKNOWN = re.compile("aftercorr:(-[0-9]+)")


class Round(NamedTuple):
    """What one look at run and queue found and did, in numbers of array elements.

    Attributes:
        submitted: Submitted in this round.
        queued: In the queue before this round.
        postponed: Waiting for room in the queue.
        limit: The limit that postpones them; None if Slurm itself refused more.
        left: Submitted by an earlier round, and ended with rows that are not finished.
        barren: Second stages that no first stage has left anything for.
        finished: All of their rows are.
    """

    submitted: int
    queued: int
    postponed: int
    limit: Limit | None
    left: int
    barren: int
    finished: int


class Submitter:
    """Submits the elements of one run to Slurm, each of them once.

    An element that ended with unfinished rows is left to another Submitter: the user decides
    whether it is worth another try. `queue_limit` overrides the run's setting. `stale` gets the
    results that are out of date.
    """

    def __init__(self, path: Path, queue_limit: int | None, log: Log, stale: StaleRows) -> None:
        self.run = run_directory.load_run(path)
        self.rows = UnfinishedRows(self.run, stale)
        self._stale = stale
        self._total = len(array_elements.shards_by_element(self.run))
        self._queue_limit = queue_limit
        self._log = log
        self._rules: QueueRules | None = None
        self._submitted: set[Element] = set()
        # The elements that were in the queue after the last round.
        self._awaited: dict[Element, Placement] = {}
        # Those of the submitted ones that were to follow others.
        self._followers: set[Element] = set()
        self._nodes = FailingNodes(log)

    def submit_round(self) -> Round:
        """Look, and submit what there is room for.

        Raises LockedError if another process is doing the same, MachineError if all nodes swallow
        the run's jobs, and what `ask_slurm` and `SlurmSubmissions.submit` raise.
        """
        with SubmitLock(self.run.path) as lock:
            # Another process may have submitted something since we read run.json.
            self.run = run_directory.load_run(self.run.path)
            self._stale.settle()
            submissions = SlurmSubmissions(self.run, self._log)
            submissions.confirm()
            queue = submissions.drop_hopeless(submissions.ask_queue())
            in_queue = submissions.find_queued(queue)
            # Results are listed after the queue: a job that has left it writes no more results.
            unfinished = array_elements.find_unfinished(self.run, self.rows, besides=in_queue)
            self._forget_hopeless(unfinished)
            left = [element for element in unfinished if element in self._submitted]
            known = list(self.run.nodes)
            has_news = self._nodes.look(self.run, unfinished)
            if self.run.nodes != known:
                self.run.save()
            if has_news:
                submissions.exclude_from_waiting(queue)
            found = self._find_candidates(unfinished, in_queue)
            fit = self._fit(found, queue, submissions.clusters, queued=in_queue)
            # What is in the queue may still get to a good node.
            if fit.admitted and not in_queue:
                self._nodes.require_a_good_node(self.run, fit.admitted)
            self._awaited = dict(in_queue)
            submitted = self._submit(fit, submissions, lock, is_queue_empty=not queue)
        is_refused = submitted < len(fit.admitted)
        return Round(
            submitted=submitted,
            queued=len(in_queue),
            postponed=len(fit.admitted) + len(fit.postponed) - submitted,
            limit=None if is_refused else fit.limit,
            left=len(left),
            barren=len(found.barren),
            finished=self._total - len(in_queue) - len(unfinished),
        )

    def have_workers_ended(self) -> bool:
        """Return whether all that was in the queue after the last round seems to be over."""
        return have_workers_ended(self.run, self.rows, self._awaited)

    def command_lines(self) -> list[str]:
        """Return the shell commands of `submit_round`; nothing is written or submitted."""
        submissions = SlurmSubmissions(self.run, self._log, dry_run=True)
        submissions.confirm()
        queue = submissions.drop_hopeless(submissions.ask_queue())
        in_queue = submissions.find_queued(queue)
        unfinished = array_elements.find_unfinished(self.run, self.rows, besides=in_queue)
        self._nodes.look(self.run, unfinished, dry_run=True)
        found = self._find_candidates(unfinished, in_queue)
        fit = self._fit(found, queue, submissions.clusters, queued=in_queue)
        if fit.admitted and not in_queue:
            self._nodes.require_a_good_node(self.run, fit.admitted)
        return self._dry_lines(fit, submissions, queued=in_queue)

    def _dry_lines(
        self, fit: QueueFit, submissions: SlurmSubmissions, queued: Mapping[Element, Placement]
    ) -> list[str]:
        """Return the lines of a shell script that submits what fits."""
        comment = submissions.new_comment()
        lines: list[str] = []
        placements = dict(queued)
        leaders = {array_elements.followed_element(self.run, one) for one in fit.following}
        for batch in self._batches(fit, placements):
            line = shlex.join(submissions.command(batch, comment))
            line = _UNKNOWN.sub(lambda m: f'"aftercorr:${{job{~int(m[1])}%%;*}}"', line)
            # Its number will be known when sbatch has answered.
            made = batch.placements(JobNumber(~len(lines), OWN))
            placements.update(made)
            lines.append(line if leaders.isdisjoint(made) else f"job{len(lines)}=$({line})")
        return lines

    def _find_candidates(
        self, unfinished: Sequence[Element], in_queue: Mapping[Element, Placement]
    ) -> Candidates:
        return array_elements.find_candidates(
            self.run, self.rows, unfinished, queued=in_queue, tried=self._submitted
        )

    def _forget_hopeless(self, unfinished: Iterable[Element]) -> None:
        """Let elements be submitted again that never began, since what they followed has failed.

        Some of their rows may have an output all the same. What a user has cancelled stays so.
        """
        jobs, shards = newest_jobs(self.run), array_elements.shards_by_element(self.run)
        beats = read_beats(self.run) if self._followers else {}
        for element in self._followers.intersection(unfinished):
            self._followers.discard(element)
            (shard,) = shards[element]
            if (job := jobs.get(shard)) is None or job.task is None or job.is_cancelled:
                continue
            name = f"{job.task.job_id}_{job.task.array_index}"
            attempts = beats[shard].attempts if shard in beats else ()
            if name not in [attempt.job for attempt in attempts]:
                self._submitted.discard(element)

    def _fit(
        self,
        found: Candidates,
        queue: list[QueuedElement],
        clusters: list[str],
        *,
        queued: Collection[Element],
    ) -> QueueFit:
        """Return which candidates there is room for."""
        if (found.ready or found.following) and self._rules is None:
            self._rules = queue_limits.ask_rules(
                self.run, self._queue_limit, self._log, clusters=clusters
            )
        limits = self._rules.limits if self._rules else []
        counted = [element for element in queue if element.cluster in clusters]
        return array_elements.fit_into_queue(
            self.run, found, limits=limits, queue=counted, queued=queued
        )

    def _array_size(self) -> int | None:
        return self._rules.array_size if self._rules else None

    def _submit(
        self,
        fit: QueueFit,
        submissions: SlurmSubmissions,
        lock: SubmitLock,
        *,
        is_queue_empty: bool,
    ) -> int:
        """Submit what fits; return the number of elements that Slurm took."""
        taken = 0
        try:
            for batch in self._batches(fit, self._awaited):
                lock.refresh()
                self._awaited.update(batch.placements(self._submit_batch(batch, submissions)))
                taken += len(batch.elements)
        except NoRoomError as error:
            if is_queue_empty and not taken:
                # Waiting would make no room.
                raise OellmError(f"{error}; submit fewer at a time: --queue_limit=N") from None
            self._log(str(error))
        return taken

    def _batches(self, fit: QueueFit, placements: Mapping[Element, Placement]) -> Iterator[Batch]:
        """Yield what to submit; `placements` has what was yielded before when the next is asked."""
        yield from array_elements.make_batches(fit.ready, self._array_size())
        yield from array_elements.make_following_batches(self.run, fit.following, placements)

    def _submit_batch(self, batch: Batch, submissions: SlurmSubmissions) -> JobNumber:
        number = submissions.submit(batch, self._rules.slurm if self._rules else "")
        elements = batch.placements(number).keys()
        self._submitted.update(elements)
        if batch.after is not None:
            self._followers.update(elements)
        script = self.run.path / self.run.arrays[batch.array].script
        after = "" if batch.after is None else f", each after that of job {batch.after}"
        ranges = format_ranges(batch.elements)
        self._log(f"submitted as job {number}: elements {ranges} of {script}{after}")
        return number


def cancel_run(path: Path, log: Log) -> None:
    """Cancel what is queued or running of a run; `log` is told what that is.

    Leaves alone a job that has a number of ours but is another job. Raises LockedError, and what
    `ask_slurm` raises.
    """
    with SubmitLock(path):
        submissions = SlurmSubmissions(run_directory.load_run(path), log)
        jobs: dict[JobNumber, list[int]] = {}
        # A run that was never submitted to Slurm can be cancelled on a machine without Slurm.
        if submissions.has_jobs():
            submissions.confirm()
            queue = submissions.ask_queue()
            jobs = submissions.find_own_jobs(queue)
            for cluster in dict.fromkeys(number.cluster for number in jobs):
                ids = [str(number.job_id) for number in jobs if number.cluster == cluster]
                ask_slurm(["scancel", *cluster_option(cluster), *ids], log)
            if jobs:
                submissions.note_cancelled(queue, user_name())
    for number, elements in jobs.items():
        log(f"cancelled job {number}: elements {format_ranges(elements)}")
    if not jobs:
        log(f"nothing is in the queue for {path}")
