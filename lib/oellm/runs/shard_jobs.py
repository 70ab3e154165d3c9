"""The newest submission of each shard: its job, its logs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from oellm.core.regular_files import open_regular
from oellm.runs.run_directory import LOGS, Run
from oellm.runs.run_record import Executor, Submission
from oellm.slurm.job_states import ArrayTask

# Bytes at the end of a log in which messages of Slurm are looked for.
_LOG_END = 8192


@dataclass(frozen=True)
class ShardJob:
    """The newest submission of a shard's array element.

    Attributes:
        shard: The number of the shard.
        worker: Which of the element's workers evaluates the shard.
        submission: The submission.
        index: The array index of the element in that submission.
    """

    shard: int
    worker: int
    submission: Submission
    index: int

    @property
    def is_local(self) -> bool:
        """Whether oe-submit runs it on its own machine, without Slurm."""
        return self.submission.executor is Executor.LOCAL

    @property
    def is_cancelled(self) -> bool:
        """Whether oe-submit --cancel took the element out of the queue."""
        return self.index + self.submission.offset in self.submission.cancelled

    @property
    def task(self) -> ArrayTask | None:
        """What Slurm calls the element; None outside of Slurm, or if its job id is not known."""
        if self.is_local or (job_id := self.submission.job_id) is None:
            return None
        submission = self.submission
        return ArrayTask(job_id, self.index, cluster=submission.cluster, comment=submission.comment)

    def find_log(self, run_dir: Path) -> Path | None:
        """Return the log of the shard's worker, None if there is none.

        If an element has several workers, each may have a log of its own beside the element's:
        4711_3.1.log beside 4711_3.log.
        """
        first_shard = self.shard - self.worker
        stem = f"local_{first_shard}" if self.is_local else f"{self.submission.job_id}_{self.index}"
        paths = (run_dir / LOGS / f"{name}.log" for name in (f"{stem}.{self.worker}", stem))
        return next(filter(Path.is_file, paths), None)


def newest_jobs(run: Run) -> dict[int, ShardJob]:
    """Return the newest submission of each shard that was submitted, by shard."""
    shards: dict[tuple[int, int], list[int]] = {}
    for shard in run.shards:
        shards.setdefault((shard.array, shard.element), []).append(shard.index)
    jobs = {}
    for submission in run.submissions:
        array = run.arrays[submission.array]
        for element in submission.elements:
            for shard_index in shards.get((submission.array, element), ()):
                jobs[shard_index] = ShardJob(
                    shard=shard_index,
                    worker=(shard_index - array.first_shard) % array.workers,
                    submission=submission,
                    index=element - submission.offset,
                )
    return jobs


def read_log_end(path: Path, size: int = _LOG_END) -> str:
    """Return the whole lines within the last `size` bytes of a file; empty if there is no file."""
    try:
        with open_regular(path) as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - size))
            content = stream.read()
    except OSError:
        return ""
    if length > size:
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", "replace")
