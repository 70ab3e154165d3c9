"""The logs of a run's shards, and how they end."""

from __future__ import annotations

from pathlib import Path

from oellm.errors import InputError
from oellm.manifest.rows import Row
from oellm.runs.result_store import ResultStore
from oellm.runs.run_directory import Run
from oellm.runs.shard_jobs import newest_jobs
from oellm.status.seen_outputs import SeenOutputs

# Digits of a shard's number.
_LONGEST_SHARD = 7


def find_log(run: Run, name: str) -> Path:
    """Return the log of a shard (its number), or of a row (its eval_id, or the beginning of it).

    A number that is too short for an eval_id is always a shard. A row's log is the file that its
    failure names, else that of the newest submission of its stage. Raises InputError if there is no
    log, or if `name` stands for no row or for several.
    """
    source = str(run.path)
    if name.isascii() and name.isdecimal() and len(name) <= _LONGEST_SHARD:
        shards = [shard := int(name)]
        if shard >= len(run.shards):
            known = f"shards 0 to {len(run.shards) - 1}" if run.shards else "no shards"
            raise InputError(f"--log: there is no shard {shard}: the run has {known}", source)
    else:
        rows = [row for row in run.rows() if row["eval_id"].startswith(name)]
        if len(rows) != 1:
            expected = "expected a shard, or the beginning of one row's eval_id"
            raise InputError(f"--log: {expected}; {len(rows)} rows begin with {name!r}", source)
        failure = ResultStore(run.path).failure(rows[0]["eval_id"])
        if failure is not None and Path(failure.log).is_file():
            return Path(failure.log)
        shards = _shards_of(run, rows[0])
    jobs = newest_jobs(run)
    for shard in shards:
        job = jobs.get(shard)
        path = job.find_log(run.path) if job is not None else None
        if path is not None:
            return path
    raise InputError(f"--log: shard {shards[-1]} has no log yet", source)


def _shards_of(run: Run, row: Row) -> list[int]:
    """Return the shards that compute a row; that of its second stage first, if it got so far."""
    second = run.evaluate_shard_of(row)
    outputs = SeenOutputs(run, [row], lambda _: None).look([row["eval_id"]])
    return [*([second] if second is not None and outputs else []), run.shard_of(row)]
