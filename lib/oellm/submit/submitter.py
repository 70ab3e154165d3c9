"""Looks at a run and at the queue, and submits what is missing; once, or again and again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from oellm.errors import OellmError
from oellm.runs import run_directory
from oellm.runs.run_directory import Run
from oellm.slurm import commands, notation
from oellm.slurm.commands import QueuedElement
from oellm.submit import array_elements, queue_limits, submission
from oellm.submit.array_elements import Element, Pending, UnfinishedRows
from oellm.submit.lock import SubmitLock
from oellm.submit.queue_limits import Limit, QueueRules
from oellm.submit.submission import NoRoomError


class Round(NamedTuple):
    """What one look at run and queue found and did, in numbers of array elements."""

    submitted: int
    # In the queue before.
    queued: int
    # Waiting for room in the queue, for this limit; None where Slurm itself said so.
    postponed: int
    limit: Limit | None
    # Submitted by an earlier round, and ended with rows that have no result.
    left: int
    finished: int


class Submitter:
    """Submits the elements of one run to Slurm, each of them once.

    An element that ended and left rows is for another Submitter: whether it is worth another try,
    the user decides.
    """

    def __init__(self, path: Path, queue_limit: int | None, report: commands.Report) -> None:
        self.run = run_directory.load(path)
        self.rows = UnfinishedRows(self.run)
        self._total = sum(array.elements for array in self.run.arrays)
        self._queue_limit = queue_limit
        self._report = report
        self._rules: QueueRules | None = None
        self._submitted: set[Element] = set()

    def round(self) -> Round:
        """Look, and submit what there is room for.

        Raises LockedError where another process does the same, and what slurm.ask and
        submission.submit raise.
        """
        with SubmitLock(self.run.path) as lock:
            # Others may have submitted meanwhile.
            self.run = run_directory.load(self.run.path)
            submission.resolve(self.run, self._report)
            queue = commands.queued(self._report)
            in_queue = array_elements.queued(self.run, queue)
            # After the queue: who has left it writes no result any more.
            unfinished = array_elements.unfinished(self.run, self.rows, in_queue)
            left = [element for element in unfinished if element in self._submitted]
            pending = self._pending(unfinished, queue)
            submitted = self._submit(pending, queue, lock)
        waiting = len(pending.ready) + len(pending.postponed) - submitted
        is_refused = submitted < len(pending.ready)
        return Round(
            submitted=submitted,
            queued=len(in_queue),
            postponed=waiting,
            limit=None if is_refused else pending.limit,
            left=len(left),
            finished=self._total - len(in_queue) - len(unfinished),
        )

    def command_lines(self) -> list[str]:
        """Return what `round` would run, as shell commands; nothing is written or submitted."""
        submission.resolve(self.run, self._report, lambda _: None)
        queue = commands.queued(self._report)
        in_queue = array_elements.queued(self.run, queue)
        pending = self._pending(array_elements.unfinished(self.run, self.rows, in_queue), queue)
        comment = submission.new_comment(self.run)
        return [
            shlex.join(submission.command(self.run, batch, comment))
            for batch in array_elements.batches(pending.ready, self._array_size())
        ]

    def _pending(self, unfinished: list[Element], queue: list[QueuedElement]) -> Pending:
        waiting = [element for element in unfinished if element not in self._submitted]
        if waiting and self._rules is None:
            self._rules = queue_limits.rules(self.run, self._queue_limit, self._report)
        return array_elements.pending(waiting, queue, self._rules.limits if self._rules else [])

    def _array_size(self) -> int | None:
        return self._rules.array_size if self._rules else None

    def _submit(self, pending: Pending, queue: list[QueuedElement], lock: SubmitLock) -> int:
        """Submit what is ready; return how many elements Slurm took."""
        taken = 0
        for batch in array_elements.batches(pending.ready, self._array_size()):
            lock.refresh()
            try:
                job_id = submission.submit(self.run, batch, self._report)
            except NoRoomError as error:
                if not queue and not taken:
                    # No room will appear by waiting.
                    raise OellmError(f"{error}\nfewer at a time: --queue_limit=N") from None
                self._report(str(error))
                break
            taken += len(batch.elements)
            self._submitted.update(Element(batch.array, number) for number in batch.elements)
            script = self.run.path / self.run.arrays[batch.array].script
            ranges = notation.ranges(batch.elements)
            self._report(f"submitted as job {job_id}: elements {ranges} of {script}")
        return taken


def cancel(path: Path, report: commands.Report) -> None:
    """Cancel what is queued or running of a run; `report` is told what that is.

    A job with the number of ours that is another one is left alone. Raises LockedError, and what
    slurm.ask raises.
    """
    with SubmitLock(path):
        run = run_directory.load(path)
        found: dict[int, list[int]] = {}
        # A run that never saw Slurm needs none here either.
        if any(job["executor"] == "slurm" for job in run.record["jobs"]):
            submission.resolve(run, report)
            found = _own_jobs(run, commands.queued(report), report)
        if found:
            commands.ask(["scancel", *map(str, found)], report)
    for job_id, elements in found.items():
        report(f"cancelled job {job_id}: elements {notation.ranges(elements)}")
    if not found:
        report(f"nothing in the queue of {path}")


def _own_jobs(
    run: Run, queue: list[QueuedElement], report: commands.Report
) -> dict[int, list[int]]:
    """Return the elements in the queue by their job."""
    jobs = {job["job_id"]: job for job in run.record["jobs"] if job["executor"] == "slurm"}
    found: dict[int, list[int]] = {}
    foreign = set()
    for element in queue:
        job = jobs.get(element.job_id)
        if job is None or element.index is None:
            continue
        if element.comment != job["comment"]:
            foreign.add(element.job_id)
            continue
        found.setdefault(element.job_id, []).append(element.index + job["offset"])
    for job_id in sorted(foreign):
        report(f"job {job_id} is left alone: its comment is not that of this run")
    return found
