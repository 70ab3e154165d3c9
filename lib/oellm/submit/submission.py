"""Handing array elements to Slurm so that none is submitted twice, whatever happens in between."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence

from oellm.core.atomic import new_attempt
from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.runs.run_directory import Run
from oellm.runs.run_record import Array, Executor, Submission
from oellm.slurm import commands
from oellm.slurm.clusters import OWN, cluster_option, find_clusters
from oellm.slurm.commands import JobNumber, SlurmUnavailableError
from oellm.slurm.job_states import SlurmJob
from oellm.slurm.notation import format_ranges
from oellm.slurm.queue import QueuedElement, ask_comment, ask_queue
from oellm.submit import array_elements, batch_call, sbatch_errors
from oellm.submit.array_elements import Batch, Element, Placement

# Seconds after which a submission whose answer got lost would be in the queue if Slurm has it.
_SETTLED_S = 20.0
_PAUSE_S = 2.0
_TRIES = 5
# Slurm's reason why a job waits that can never begin.
_HOPELESS = "DependencyNeverSatisfied"


class NoRoomError(OellmError):
    """Slurm refuses a submission because of the number of jobs that the user has in the queue."""


class SlurmSubmissions:
    """The submissions of one run: those in run.json, and new ones.

    `log` gets messages for the user. With `dry_run` run.json is never written. Raises InputError if
    the run names its clusters in a way that we cannot follow.

    Attributes:
        clusters: The Slurm clusters that sbatch may choose for new submissions.
    """

    def __init__(self, run: Run, log: Log, *, dry_run: bool = False) -> None:
        self._run = run
        self._log = log
        self._dry_run = dry_run
        self.clusters = find_clusters(run.setting("sbatch") or {}, os.environ)

    def ask_queue(self, *, recent: bool = False) -> list[QueuedElement]:
        """Return the user's jobs on all clusters that have, or may get, jobs of the run.

        Raises what `ask_slurm` raises.
        """
        known = (s.cluster for s in self._run.submissions if s.executor is Executor.SLURM)
        clusters = dict.fromkeys((*self.clusters, *known))
        return ask_queue(self._log, clusters, recent=recent)

    def new_comment(self) -> str:
        """Return a comment that no other submission has, after that of the setting `sbatch`."""
        name = re.sub(r"[^\w.-]", "_", self._run.path.name, flags=re.ASCII)[:64]
        theirs = (self._run.setting("sbatch") or {}).get("comment", "")
        return f"{theirs} oellm:{name}:{new_attempt()}".lstrip()

    def command(self, batch: Batch, comment: str) -> list[str]:
        """Return the sbatch command line of a batch."""
        array = self._run.arrays[batch.array]
        # A job can only follow another one of its own cluster.
        clusters = self.clusters if batch.after is None else [batch.after.cluster]
        return commands.sbatch_command(
            str(self._run.path / array.script),
            [number - batch.offset for number in batch.elements],
            concurrency=self._run.setting("concurrency"),
            comment=comment,
            options=[
                *cluster_option(*clusters),
                *self._exclude_option(array),
                *self._dependency_options(batch),
                *batch_call.log_option(self._run),
            ],
            arguments=batch_call.script_arguments(self._run, batch.offset),
        )

    def _exclude_option(self, array: Array) -> list[str]:
        """Return the option that excludes nodes; none if the script's own option is enough."""
        has_excluded = bool(self._run.nodes_excluded_from(array))
        return [f"--exclude={self._excluded_from(array)}"] if has_excluded else []

    def _excluded_from(self, array: Array) -> str:
        """Return the nodes that settings exclude, and those that swallow jobs, as Slurm does."""
        own = self._last_option("exclude")
        settings = [self._run.setting("exclude") or "" if own is None else own]
        return ",".join(filter(None, [*settings, *self._run.nodes_excluded_from(array)]))

    def _dependency_options(self, batch: Batch) -> list[str]:
        """Return the options that let elements begin when those that they follow have ended well.

        If these did not, nothing waits for ever.
        """
        if batch.after is None:
            return []
        after = f"aftercorr:{batch.after.job_id}"
        own = self._last_option("dependency")
        return [f"--dependency={after}{f',{own}' if own else ''}", "--kill-on-invalid-dep=yes"]

    def _last_option(self, name: str) -> str | None:
        """Return an option of the setting sbatch, None if it is not there.

        sbatch takes the beginning of an option's name, too, and the last one counts.
        """
        options = self._run.setting("sbatch") or {}
        own = [str(text) for option, text in options.items() if name.startswith(option)]
        return own[-1] if own else None

    def exclude_from_waiting(self, queue: Iterable[QueuedElement]) -> None:
        """Exclude the nodes also from jobs of the run that wait, as far as Slurm lets us."""
        waiting: dict[tuple[JobNumber, int], list[int]] = {}
        for queued, submission, _ in self._elements_in(queue):
            has_excluded = self._run.nodes_excluded_from(self._run.arrays[submission.array])
            if queued.state.state == "PENDING" and queued.index is not None and has_excluded:
                number = JobNumber(queued.job_id, queued.cluster)
                waiting.setdefault((number, submission.array), []).append(queued.index)
        for (number, array), indices in waiting.items():
            elements = f"JobId={number.job_id}_[{format_ranges(indices)}]"
            excluded = self._excluded_from(self._run.arrays[array])
            change = ("update", elements, f"ExcNodeList={excluded}")
            try:
                commands.call_slurm(["scontrol", *cluster_option(number.cluster), *change])
            except OellmError as error:
                # Elements that have started since squeue was asked are no failure.
                if "No error" not in str(error):
                    self._log(f"job {number} may still go to excluded nodes: {error}")

    def submit(self, batch: Batch, slurm: str = "") -> JobNumber:
        """Submit a batch as one Slurm array; return its number, which is in run.json by then.

        `slurm` is the name of the login node's Slurm, if it is known.

        run.json gets the submission, without a job id, before sbatch is called: whatever happens
        then, the job can be found by its comment. If sbatch's answer is lost, the job is looked
        for, and submitted again only if Slurm does not have it. Raises NoRoomError or OellmError
        with sbatch's own words if it refuses, SlurmUnavailableError if Slurm does not answer.
        """
        for _ in range(_TRIES):
            comment = self.new_comment()
            intent = new_submission(
                Executor.SLURM, batch, comment=comment, command=self.command(batch, comment)
            )
            intent = dataclasses.replace(intent, slurm=slurm)
            self._run.submissions.append(intent)
            self._save()
            try:
                number = commands.parse_job_number(commands.call_slurm(intent.command))
            except (SlurmUnavailableError, commands.AnswerError) as error:
                self._log(f"{error}; checking whether the job is in the queue")
                # sbatch may have sent it at any time until now.
                self._replace(intent, dataclasses.replace(intent, submitted=_utc_now()))
                self.confirm()
                if (found := self._number(comment)) is not None:
                    return found
            except OellmError as error:
                self._run.submissions.remove(intent)
                self._save()
                if sbatch_errors.is_lack_of_room(str(error)):
                    raise NoRoomError(str(error)) from None
                raise type(error)("; ".join((str(error), *self._advise(str(error))))) from None
            else:
                known = dataclasses.replace(intent, **number._asdict())
                self._replace(intent, known)
                self._save()
                self._note_comment(known, number)
                return number
        raise SlurmUnavailableError(f"sbatch: no job after {_TRIES} tries")

    def _note_comment(self, submission: Submission, number: JobNumber) -> None:
        """Note the comment of a job that was submitted just now, if the site has replaced ours."""
        comment = ask_comment(number, submission.comment, lambda _: None)
        if comment != submission.comment:
            self._replace(submission, dataclasses.replace(submission, comment=comment))
            self._save()

    def _advise(self, error: str) -> Iterator[str]:
        """Yield how to change what sbatch refuses, if that is known."""
        if advice := sbatch_errors.advise(error, self._run):
            yield advice
        if excluded := self._run.excluded_nodes:
            yield (
                f"oe-submit excludes {', '.join(excluded)}, which ended jobs at once; to change "
                f"that: oe-submit --include_nodes=all {self._run.path}"
            )

    def confirm(self) -> None:
        """Find the job ids of submissions that lack one, and forget submissions without a job.

        A job that Slurm no longer knows counts as never submitted; its results tell what it did.
        """
        while unknown := [s for s in self._run.submissions if s.job_id is None]:
            queue = self.ask_queue(recent=True)
            for submission in unknown:
                found = (job for job in queue if _has_comment(job, submission))
                if (job := next(found, None)) is not None:
                    known = dataclasses.replace(submission, job_id=job.job_id, cluster=job.cluster)
                    self._replace(submission, known)
                    self._log(f"job {job.job_id} was submitted, although its number was lost")
                elif _age_s(submission) > _SETTLED_S:
                    self._run.submissions.remove(submission)
            self._save()
            if any(submission.job_id is None for submission in self._run.submissions):
                time.sleep(_PAUSE_S)

    def has_jobs(self) -> bool:
        """Return whether anything of the run was ever handed to Slurm."""
        return any(s.executor is Executor.SLURM for s in self._run.submissions)

    def find_queued(self, queue: Iterable[QueuedElement]) -> dict[Element, Placement]:
        """Return the elements of the run that are in the queue, and where."""
        return {
            element: Placement(JobNumber(queued.job_id, queued.cluster), submission.offset)
            for queued, submission, element in self._elements_in(queue)
        }

    def drop_hopeless(self, queue: Sequence[QueuedElement]) -> list[QueuedElement]:
        """Cancel elements of the run whose dependency can never be satisfied; return the others.

        Slurm itself ends them, unless the site has its own way.
        """
        hopeless: dict[JobNumber, list[int]] = {}
        dropped = set()
        for queued, _, _ in self._elements_in(queue):
            if queued.state.reason == _HOPELESS and queued.index is not None:
                number = JobNumber(queued.job_id, queued.cluster)
                hopeless.setdefault(number, []).append(queued.index)
                dropped.add(queued)
        for number, indices in () if self._dry_run else hopeless.items():
            elements = [f"{number.job_id}_{index}" for index in indices]
            try:
                commands.call_slurm(["scancel", *cluster_option(number.cluster), *elements])
            except OellmError as error:
                self._log(f"job {number} has elements that can never begin: {error}")
        return [queued for queued in queue if queued not in dropped]

    def find_own_jobs(self, queue: Sequence[QueuedElement]) -> dict[JobNumber, list[int]]:
        """Return the numbers of the run's elements in the queue, by job.

        Those that follow others come first: cancelled in this order, none is ended by Slurm for
        the loss of what it follows. A job with the number of ours but another comment is not ours;
        `log` is told.
        """
        own: dict[JobNumber, list[int]] = {}
        for queued, _, element in sorted(self._elements_in(queue), key=_reversed_array):
            own.setdefault(JobNumber(queued.job_id, queued.cluster), []).append(element.number)
        numbers = {s.job_id for s in self._run.submissions if s.executor is Executor.SLURM}
        for job_id in sorted(
            {queued.job_id for queued in queue} & numbers - {n.job_id for n in own}
        ):
            self._log(f"job {job_id} is left alone: its comment is not this run's")
        return own

    def note_cancelled(self, queue: Iterable[QueuedElement], user: str) -> None:
        """Note in run.json that a user takes the run's elements out of the queue."""
        elements: dict[Submission, set[int]] = {}
        for _, submission, element in self._elements_in(queue):
            elements.setdefault(submission, set(submission.cancelled)).add(element.number)
        for submission, numbers in elements.items():
            cancelled = tuple(sorted(numbers))
            noted = dataclasses.replace(submission, cancelled=cancelled, cancelled_by=user)
            self._replace(submission, noted)
        self._save()

    def _elements_in(
        self, queue: Iterable[QueuedElement]
    ) -> Iterator[tuple[QueuedElement, Submission, Element]]:
        """Yield what of the run is in the queue; a job is ours by its number and its comment."""
        known = set(array_elements.shards_by_element(self._run))
        jobs: dict[int | None, list[Submission]] = {}
        for submission in self._run.submissions:
            if submission.executor is Executor.SLURM:
                jobs.setdefault(submission.job_id, []).append(submission)
        for queued in queue:
            for submission in jobs.get(queued.job_id, ()):
                if queued.index is not None and _has_comment(queued, submission):
                    element = Element(submission.array, queued.index + submission.offset)
                    # The own cluster of a login node may also be asked by its name.
                    if element in known and submission.cluster in (OWN, queued.cluster):
                        yield queued, submission, element

    def _number(self, comment: str) -> JobNumber | None:
        for submission in self._run.submissions:
            if submission.comment == comment and submission.job_id is not None:
                return JobNumber(submission.job_id, submission.cluster)
        return None

    def _replace(self, old: Submission, new: Submission) -> None:
        submissions = self._run.submissions
        submissions[submissions.index(old)] = new

    def _save(self) -> None:
        if not self._dry_run:
            self._run.save()


def new_submission(
    executor: Executor,
    batch: Batch,
    *,
    job_id: int | None = None,
    comment: str = "",
    command: Iterable[str] = (),
) -> Submission:
    """Return the submission of a batch at this moment."""
    return Submission(
        executor=executor,
        job_id=job_id,
        array=batch.array,
        elements=tuple(batch.elements),
        offset=batch.offset,
        submitted=_utc_now(),
        comment=comment,
        command=tuple(command),
    )


def _reversed_array(found: tuple[QueuedElement, Submission, Element]) -> int:
    return -found[2].array


def _has_comment(queued: QueuedElement, submission: Submission) -> bool:
    job = SlurmJob(queued.job_id, submission.comment, submission.time)
    return job.has_comment(queued.comment)


def _age_s(submission: Submission) -> float:
    return (datetime.datetime.now(datetime.timezone.utc) - submission.time).total_seconds()


def _utc_now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
