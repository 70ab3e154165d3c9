"""Looks at a run and at the queue, and submits what is missing; once, or again and again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.paths import user_name
from oellm.errors import OellmError
from oellm.runs import run_directory
from oellm.runs.submit_lock import SubmitLock
from oellm.slurm.clusters import cluster_option
from oellm.slurm.commands import JobNumber, ask_slurm
from oellm.slurm.notation import format_ranges
from oellm.slurm.queue import QueuedElement
from oellm.submit import array_elements, queue_limits
from oellm.submit.array_elements import Element, QueueFit, UnfinishedRows
from oellm.submit.failing_nodes import FailingNodes
from oellm.submit.queue_limits import Limit, QueueRules
from oellm.submit.stale_rows import StaleRows
from oellm.submit.submission import NoRoomError, SlurmSubmissions


class Round(NamedTuple):
    """What one look at run and queue found and did, in numbers of array elements.

    Attributes:
        submitted: Submitted in this round.
        queued: In the queue before this round.
        postponed: Waiting for room in the queue.
        limit: The limit that postpones them; None if Slurm itself refused more.
        left: Submitted by an earlier round, and ended with rows that have no result.
        finished: All of their rows have results.
    """

    submitted: int
    queued: int
    postponed: int
    limit: Limit | None
    left: int
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
        self._total = sum(array.elements for array in self.run.arrays)
        self._queue_limit = queue_limit
        self._log = log
        self._rules: QueueRules | None = None
        self._submitted: set[Element] = set()
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
            queue = submissions.ask_queue()
            in_queue = submissions.find_queued(queue)
            # Results are listed after the queue: a job that has left it writes no more results.
            unfinished = array_elements.find_unfinished(self.run, self.rows, besides=in_queue)
            left = [element for element in unfinished if element in self._submitted]
            known = list(self.run.nodes)
            has_news = self._nodes.look(self.run, unfinished)
            if self.run.nodes != known:
                self.run.save()
            if has_news:
                submissions.exclude_from_waiting(queue)
            fit = self._fit(unfinished, queue, submissions.clusters)
            # What is in the queue may still get to a good node.
            if fit.admitted and not in_queue:
                self._nodes.require_a_good_node(self.run)
            submitted = self._submit(fit, submissions, lock, is_queue_empty=not queue)
        is_refused = submitted < len(fit.admitted)
        return Round(
            submitted=submitted,
            queued=len(in_queue),
            postponed=len(fit.admitted) + len(fit.postponed) - submitted,
            limit=None if is_refused else fit.limit,
            left=len(left),
            finished=self._total - len(in_queue) - len(unfinished),
        )

    def command_lines(self) -> list[str]:
        """Return the shell commands of `submit_round`; nothing is written or submitted."""
        submissions = SlurmSubmissions(self.run, self._log, dry_run=True)
        submissions.confirm()
        queue = submissions.ask_queue()
        in_queue = submissions.find_queued(queue)
        unfinished = array_elements.find_unfinished(self.run, self.rows, besides=in_queue)
        self._nodes.look(self.run, unfinished, dry_run=True)
        fit = self._fit(unfinished, queue, submissions.clusters)
        if fit.admitted and not in_queue:
            self._nodes.require_a_good_node(self.run)
        comment = submissions.new_comment()
        return [
            shlex.join(submissions.command(batch, comment))
            for batch in array_elements.make_batches(fit.admitted, self._array_size())
        ]

    def _fit(
        self, unfinished: list[Element], queue: list[QueuedElement], clusters: list[str]
    ) -> QueueFit:
        waiting = [element for element in unfinished if element not in self._submitted]
        if waiting and self._rules is None:
            self._rules = queue_limits.ask_rules(
                self.run, self._queue_limit, self._log, clusters=clusters
            )
        limits = self._rules.limits if self._rules else []
        counted = [element for element in queue if element.cluster in clusters]
        return array_elements.fit_into_queue(waiting, counted, limits)

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
        for batch in array_elements.make_batches(fit.admitted, self._array_size()):
            lock.refresh()
            try:
                number = submissions.submit(batch, self._rules.slurm if self._rules else "")
            except NoRoomError as error:
                if is_queue_empty and not taken:
                    # Waiting would make no room.
                    raise OellmError(f"{error}; submit fewer at a time: --queue_limit=N") from None
                self._log(str(error))
                break
            taken += len(batch.elements)
            self._submitted.update(Element(batch.array, number) for number in batch.elements)
            script = self.run.path / self.run.arrays[batch.array].script
            ranges = format_ranges(batch.elements)
            self._log(f"submitted as job {number}: elements {ranges} of {script}")
        return taken


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
