"""What a run still lacks, and handing it to Slurm so that nothing is there twice."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from typing import Any

from oellm.core.atomic import new_attempt
from oellm.errors import OellmError
from oellm.runs.run_directory import Run
from oellm.slurm import commands
from oellm.slurm.commands import SlurmUnavailableError
from oellm.submit import sbatch_errors
from oellm.submit.array_elements import Batch

# Seconds after which a submission whose answer was lost would be in the queue, if it got there.
_SETTLED_S = 20.0
_PAUSE_S = 2.0
_TRIES = 5


class NoRoomError(OellmError):
    """Slurm refuses a submission for the number of jobs that the user has in the queue."""


def command(run: Run, batch: Batch, comment: str) -> list[str]:
    """Return the sbatch command line of a batch."""
    return commands.submit_command(
        str(run.path / run.arrays[batch.array].script),
        [number - batch.offset for number in batch.elements],
        run.setting("concurrency"),
        batch.offset,
        comment,
    )


def new_comment(run: Run) -> str:
    """Return a comment that no other submission has, after the one of the setting `sbatch`."""
    name = re.sub(r"[^\w.-]", "_", run.path.name, flags=re.ASCII)[:64]
    theirs = (run.setting("sbatch") or {}).get("comment", "")
    return f"{theirs} oellm:{name}:{new_attempt()}".lstrip()


def record(run: Run, executor: str, batch: Batch, **known: Any) -> dict[str, Any]:
    """Add a submission to run.json, and return its entry."""
    entry = {
        "executor": executor,
        "job_id": None,
        "array": batch.array,
        "elements": batch.elements,
        "offset": batch.offset,
        "submitted": _now().isoformat(timespec="seconds"),
        **known,
    }
    run.record["jobs"].append(entry)
    run.save()
    return entry


def submit(run: Run, batch: Batch, report: commands.Report) -> int:
    """Submit a batch as one Slurm array; return the job id, which is in run.json by then.

    Before sbatch is called run.json has the entry, without a job id: whatever happens then, the
    job can be found by its comment. Where sbatch's answer is lost, it is looked for, and only
    submitted again where it is not there. Raises NoRoomError or OellmError with sbatch's own words
    where it refuses, SlurmUnavailableError where Slurm does not answer.
    """
    for _ in range(_TRIES):
        comment = new_comment(run)
        entry = record(run, "slurm", batch, comment=comment, command=command(run, batch, comment))
        try:
            entry["job_id"] = commands.parse_job_id(commands.call(entry["command"]))
        except (SlurmUnavailableError, commands.AnswerError) as error:
            report(f"{error}; looking whether the job is in the queue")
            # Until now sbatch may have sent it.
            entry["submitted"] = _now().isoformat(timespec="seconds")
            resolve(run, report)
            if entry["job_id"] is None:
                continue
        except OellmError as error:
            run.record["jobs"].remove(entry)
            run.save()
            if sbatch_errors.is_lack_of_room(str(error)):
                raise NoRoomError(str(error)) from None
            raise type(error)(f"{error}{sbatch_errors.advice(str(error), run)}") from None
        run.save()
        return int(entry["job_id"])
    raise SlurmUnavailableError(f"sbatch: no job after {_TRIES} tries")


def resolve(run: Run, report: commands.Report, save: Callable[[Run], None] = Run.save) -> None:
    """Find out what became of submissions whose job id is not known, and forget what is nowhere.

    What ran and ended so long ago that Slurm has forgotten it counts as nowhere: its results say
    what it has done.
    """
    while unknown := [job for job in run.record["jobs"] if job["job_id"] is None]:
        queue = commands.queued(report, recent=True)
        for job in unknown:
            job["job_id"] = next(
                (found.job_id for found in queue if found.comment == job["comment"]), None
            )
            if job["job_id"] is not None:
                report(f"job {job['job_id']} was submitted, though its number got lost")
            elif _age(job) > _SETTLED_S:
                run.record["jobs"].remove(job)
        save(run)
        if any(job["job_id"] is None for job in run.record["jobs"]):
            time.sleep(_PAUSE_S)


def _age(job: dict[str, Any]) -> float:
    """Return the seconds since a submission."""
    return (_now() - datetime.datetime.fromisoformat(job["submitted"])).total_seconds()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
