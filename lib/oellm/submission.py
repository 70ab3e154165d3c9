"""Which shards of a run still need to run, and handing them to Slurm."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from oellm import slurm
from oellm.run_directory import Run


@dataclass(frozen=True)
class Pending:
    """The shards of a run by what can be done about them."""

    # Shards to submit now.
    ready: list[int]
    # Shards that wait or run in the queue.
    queued: list[int]
    # Shards for which the queue has no room.
    postponed: list[int]


def incomplete_shards(run: Run) -> list[int]:
    """Return the shards with rows that have no valid result, in order."""
    return sorted({int(row["shard"]) for row in run.missing_rows()})


def pending(run: Run, incomplete: list[int], queue: list[slurm.QueuedElement]) -> Pending:
    """Divide the incomplete shards of a run by the state of the user's queue."""
    ours = {job["job_id"] for job in run.record["jobs"] if job["executor"] == "slurm"}
    in_queue = {element.index for element in queue if element.job_id in ours}
    queued = [shard for shard in incomplete if shard in in_queue]
    waiting = [shard for shard in incomplete if shard not in in_queue]
    limit = run.setting("queue_limit")
    room = max(0, limit - len(queue)) if limit else len(waiting)
    return Pending(waiting[:room], queued, waiting[room:])


def submit(run: Run, shards: list[int]) -> int:
    """Submit shards as one Slurm array; return the job id, which is in run.json by then.

    Raises OellmError with sbatch's own words where it refuses.
    """
    script = str(run.path / run.arrays[0].script)
    command = slurm.submit_command(script, shards, run.setting("concurrency"))
    job_id = slurm.parse_job_id(slurm.ask(command))
    record(run, "slurm", job_id, shards, command)
    return job_id


def record(
    run: Run, executor: str, job_id: int, shards: list[int], command: list[str] | None = None
) -> None:
    """Add a submission to run.json."""
    entry = {
        "executor": executor,
        "job_id": job_id,
        "array": 0,
        "elements": shards,
        "offset": 0,
        "submitted": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    run.record["jobs"].append(entry | ({"command": command} if command else {}))
    run.save()
