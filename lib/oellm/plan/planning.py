"""From a manifest to the jobs of a run: which rows, what they should take, in which shards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.run_rows import complete_rows
from oellm.core import display
from oellm.errors import ExitStatus, InputError, OellmError
from oellm.manifest import csv_file
from oellm.manifest.model_key import ModelKey, model_key
from oellm.manifest.rows import Row
from oellm.plan import job_resources, time_limits
from oellm.plan.costs import CostModel
from oellm.plan.row_spool import RowSpool
from oellm.plan.sharding import Plan, Room, Work, plan
from oellm.runs.run_directory import Array, Shard
from oellm.slurm import commands, notation
from oellm.slurm.notation import parse_duration, ranges

# Rows that are there twice and have a message of their own.
_REPEATED_SHOWN = 10
# Seconds that a shard should take, where no setting says it.
_SHARD_S = 3600


class NoRowsError(OellmError):
    """The manifest has a header and no rows, so that there is nothing to plan."""

    status = ExitStatus.DONE


@dataclasses.dataclass(frozen=True)
class Jobs:
    """What is to know of a run's rows, and the arrays and shards that evaluate them."""

    count: int
    arrays: list[Array]
    shards: list[Shard]
    # The shards of each model's rows, in the order of the manifest.
    shard_of: Mapping[ModelKey, array[int]]
    task_directories: frozenset[str]
    # How many rows were estimated how.
    rows_by_basis: Mapping[str, int]
    # While the jobs run, by the estimate; with those that a whole node has and no worker uses.
    gpu_hours: float

    def shards_of(self, position: int) -> int:
        """Return how many shards an array has."""
        return sum(shard.array == position for shard in self.shards)

    @property
    def estimate_s(self) -> float:
        """Seconds that all workers should take together."""
        return sum(shard.estimate_s for shard in self.shards)

    def longest_s(self, position: int) -> float:
        """Return the seconds that the longest shard of an array should take."""
        return max(shard.estimate_s for shard in self.shards if shard.array == position)

    def record(self) -> dict[str, Any]:
        """Return the plan as a run has it (schema.json, table `run`)."""
        return {
            "estimate_s": round(self.estimate_s, 1),
            "gpu_hours": round(self.gpu_hours, 3),
            "rows_by_basis": dict(self.rows_by_basis),
        }


@dataclasses.dataclass
class _Read:
    """What is known of a manifest when its last row is read."""

    work: dict[ModelKey, Work]
    # Of each model, the seconds of its rows, which its Work has too.
    seconds: dict[ModelKey, array[float]]
    directories: set[str]
    bases: Counter[str]


def read_jobs(
    stream: TextIO,
    source: str,
    cluster: Cluster,
    costs: CostModel,
    *,
    report: Callable[[str], None],
    spool: RowSpool | None,
) -> Jobs:
    """Read a manifest and plan its shards; the rows go to the spool, each with its eval_id.

    `report` is told of rows that are there twice, and of shards that their time limit will stop.
    Raises InputError for anything wrong in the manifest, and NoRowsError if it has no rows.
    """
    read = _Read({}, {}, set(), Counter())
    for row in _once(complete_rows(csv_file.read(stream, source), cluster), report):
        key = model_key(row)
        if (seconds := read.seconds.get(key)) is None:
            frameworks.require_runnable(row)
            if reason := job_resources.reason_against(cluster, key.tp):
                raise InputError(reason, row.source, row.line, "tp")
            seconds = read.seconds[key] = array("d")
            read.work[key] = Work(key, costs.load(row), seconds)
        estimate = costs.row(row)
        seconds.append(estimate.seconds)
        read.bases[estimate.basis] += 1
        if include_path := row["include_path"]:
            read.directories.add(include_path)
        if "/" in row["task_path"]:
            read.directories.add(os.path.dirname(row["task_path"]))
        if spool is not None:
            spool.add(row, key, estimate)
    if not read.work:
        raise NoRowsError("nothing to do: the manifest has no rows")
    return _planned(read, cluster, costs.start_s, report)


def _planned(read: _Read, cluster: Cluster, start_s: float, report: Callable[[str], None]) -> Jobs:
    shard_s = parse_duration(cluster.text("shard_time"))
    room = Room(
        cluster.number("queue_limit"),
        cluster.number("concurrency"),
        _SHARD_S if shard_s is None else shard_s,
        start_s,
    )
    planned = plan(list(read.work.values()), room, lambda tp: job_resources.workers(cluster, tp))
    jobs = Jobs(
        sum(len(work.rows) for work in read.work.values()),
        planned.arrays,
        planned.shards,
        dict(zip(read.work, planned.shard_of, strict=True)),
        frozenset(read.directories),
        read.bases,
        _gpu_hours(planned, cluster),
    )
    return dataclasses.replace(jobs, arrays=list(_limited(jobs, cluster, report)))


def _limited(jobs: Jobs, cluster: Cluster, report: Callable[[str], None]) -> Iterator[Array]:
    """Yield the arrays with their GPUs, if the cluster has any, and their time limits."""
    ceiling = _ceiling_s(cluster)
    for position, each in enumerate(jobs.arrays):
        longest = jobs.longest_s(position)
        limit = time_limits.time_limit(longest, cluster.number("stop_before") or 0, ceiling)
        if limit is not None and longest > limit:
            report(
                f"a shard should take {display.format_duration(longest)}, more than the time limit "
                f"of {display.format_duration(limit)}: its job requeues itself and goes on"
            )
        text = "" if limit is None else notation.as_slurm(limit)
        gpus = job_resources.gpus_of_worker(cluster, each.gpus)
        yield dataclasses.replace(each, gpus=gpus, time_limit=text)


def _ceiling_s(cluster: Cluster) -> int | None:
    """Return the longest time limit that a job may have: the setting's, and the partition's.

    Slurm is asked where it is there; a run may be rendered elsewhere.
    """
    limits = [parse_duration(cluster.text("time_limit"))]
    if cluster.text("executor") == "slurm":
        with contextlib.suppress(OellmError):
            limits.append(commands.partition_limit(job_resources.partition(cluster)))
    return min((limit for limit in limits if limit is not None), default=None)


def _gpu_hours(planned: Plan, cluster: Cluster) -> float:
    """Return what the jobs are charged for: each has all its GPUs until its last worker ends."""
    longest: dict[tuple[int, int], float] = {}
    for shard in planned.shards:
        element = (shard.array, shard.element)
        longest[element] = max(longest.get(element, 0.0), shard.estimate_s)
    gpus = [job_resources.gpus(cluster, each) for each in planned.arrays]
    return sum(gpus[position] * seconds for (position, _), seconds in longest.items()) / 3600


def plan_lines(jobs: Jobs) -> Iterator[str]:
    """Yield the plan in words: a line for all shards that are alike, and the whole."""
    alike: dict[tuple[int, int, str], list[int]] = {}
    for shard in jobs.shards:
        time = display.format_duration(shard.estimate_s)
        alike.setdefault((shard.models, shard.rows, time), []).append(shard.index)
    for (models, rows, time), indices in alike.items():
        each = " each" if len(indices) > 1 else ""
        yield f"shards {ranges(indices)}: models: {models}, rows: {rows}, about {time}{each}"
    for position, each_array in enumerate(jobs.arrays):
        elements, workers = each_array.elements, each_array.workers
        size = f"jobs: {elements}" + (f", workers of each: {workers}" if workers > 1 else "")
        limit = f", time limit {each_array.time_limit}" if each_array.time_limit else ""
        longest = display.format_duration(jobs.longest_s(position))
        yield f"{each_array.script}: {size}, the longest about {longest}{limit}"
    bases = ", ".join(f"{count} {basis}" for basis, count in sorted(jobs.rows_by_basis.items()))
    yield f"together about {jobs.gpu_hours:.2g} GPU-hours; times of rows: {bases}"


def _once(rows: Iterable[Row], report: Callable[[str], None]) -> Iterator[Row]:
    """Yield the first row of each evaluation; `report` is told of the others."""
    # An integer takes less memory than the 16 digits that it is written with.
    first_lines: dict[int, int] = {}
    repeated = 0
    for row in rows:
        line = row.line or 0
        first = first_lines.setdefault(int(row["eval_id"], 16), line)
        if first == line:
            yield row
            continue
        repeated += 1
        if repeated <= _REPEATED_SHOWN:
            report(f"{row.source}:{row.line}: the same evaluation as line {first}, left out")
    if repeated > _REPEATED_SHOWN:
        report(f"{repeated - _REPEATED_SHOWN} more rows are there twice, left out")
