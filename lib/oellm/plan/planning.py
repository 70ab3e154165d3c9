"""From a manifest to the plan of a run: which rows, how long they should take, in which shards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.run_rows import complete_rows
from oellm.core import display
from oellm.core.log import Log
from oellm.errors import ExitStatus, InputError, OellmError, raise_errors
from oellm.frameworks.current_contents import ContentsReader
from oellm.frameworks.task_check import TaskCheck
from oellm.manifest import csv_file
from oellm.manifest.model_key import model_key
from oellm.manifest.rows import Row
from oellm.models import local_models
from oellm.plan import job_resources, time_limits
from oellm.plan.costs import CostModel
from oellm.plan.guesses import DOCUMENTS
from oellm.plan.manifest_reading import ManifestReading
from oellm.plan.row_spool import Places, RowDigests, RowSpool
from oellm.plan.row_stages import RowStages, StagedRow
from oellm.plan.sharding import Room, ShardPlan, plan_shards
from oellm.runs.run_record import Array, Shard
from oellm.slurm import commands, notation
from oellm.slurm.clusters import find_clusters
from oellm.slurm.notation import format_ranges, parse_time_limit

# Duplicate rows that are reported one by one; further ones are only counted.
_DUPLICATES_SHOWN = 10
# Seconds that a shard should take if no setting says.
_SHARD_S = 3600


class NoRowsError(OellmError):
    """The manifest has a header and no rows, so that there is nothing to plan."""

    status = ExitStatus.DONE


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run evaluates, and in which arrays and shards.

    Attributes:
        count: Number of rows.
        arrays: The job arrays.
        shards: The shards of all arrays, by index.
        outside: The positions of arrays whose workers run on the node, outside of containers.
        places: The shards of the rows.
        environments: The environments that the rows need, as keys of the setting images.
        task_directories: Directories of task files that the rows name, and paths that these name.
        digests: The digests of local models and of tasks in these directories.
        rows_by_basis: Number of rows by the basis of their estimate.
        uncounted: Number of rows whose documents nobody has counted.
        repeated: Number of rows that have results in earlier runs.
        shared_partition: The partition of GPU jobs if jobs that need no GPU are for it, too; else
            empty.
        gpu_hours: What the jobs should be charged for, GPUs of whole nodes that no worker uses
            included.
    """

    count: int
    arrays: list[Array]
    shards: list[Shard]
    outside: frozenset[int]
    places: Places
    environments: Sequence[str]
    task_directories: frozenset[str]
    digests: RowDigests
    rows_by_basis: Mapping[str, int]
    uncounted: int
    repeated: int
    shared_partition: str
    gpu_hours: float

    def count_shards(self, position: int) -> int:
        """Return the number of shards of an array."""
        return sum(shard.array == position for shard in self.shards)

    def count_jobs(self, position: int) -> int:
        """Return the number of elements of an array that have rows."""
        return len({s.element for s in self.shards if s.array == position and s.rows})

    @property
    def estimate_s(self) -> float:
        """Seconds that all workers should take together."""
        return sum(shard.estimate_s for shard in self.shards)

    @property
    def used_shards(self) -> int:
        """The number of shards that have rows; others are never submitted."""
        return sum(shard.rows > 0 for shard in self.shards)

    def longest_s(self, position: int) -> float:
        """Return the seconds that the longest shard of an array should take."""
        return max(shard.estimate_s for shard in self.shards if shard.array == position)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as run.json has it (schema.json, table `run`, key `plan`)."""
        return {
            "estimate_s": round(self.estimate_s, 1),
            "gpu_hours": round(self.gpu_hours, 5),
            "rows_by_basis": dict(self.rows_by_basis),
        }


def plan_run(
    stream: TextIO,
    source: str,
    cluster: Cluster,
    *,
    costs: CostModel,
    report: Log,
    spool: RowSpool | None,
    earlier: Collection[str] = (),
    only_plan: bool = False,
    skipped: list[Row] | None = None,
) -> RunPlan:
    """Read a manifest and plan its shards; a spool gets the rows, each with its eval_id.

    `earlier` are the eval_ids of rows that earlier runs have results of. `report` gets messages
    about duplicate rows, and about shards that take longer than their time limit. `skipped` gets
    the rows of frameworks that only other tools run; without it, they are an error. Raises
    InputError for anything wrong in the manifest, and NoRowsError if it has no rows. With
    `only_plan`, a model that is not there is only reported.
    """
    read = ManifestReading(ContentsReader(cluster, report, {}), takes_digests=spool is not None)
    stages = RowStages(cluster, costs.programs)
    written = read.watch(csv_file.read_rows(stream, source, report))
    rows = complete_rows(frameworks.select_runnable(written, report, skipped=skipped), cluster)
    check = TaskCheck(cluster, report)
    for row in _drop_duplicates(rows, report):
        told = report if only_plan or read.is_old else None
        if (staged := _find_stages(row, read, stages, cluster=cluster, report=told)) is None:
            continue
        estimate = read.add(staged, costs)
        read.bases[estimate.basis] += 1
        read.uncounted += not estimate.is_counted
        read.repeated += row["eval_id"] in earlier
        read.look_up(row, check)
        read.note_task(row)
        if spool is not None:
            spool.add(row, staged, estimate)
    raise_errors(read.errors())
    if not read.models:
        raise NoRowsError("nothing to do: the manifest has no rows")
    return _plan(read, stages, cluster, start_s=costs.start_s, report=report)


def _find_stages(
    row: Row, read: ManifestReading, stages: RowStages, *, cluster: Cluster, report: Log | None
) -> StagedRow | None:
    """Return the stages of a row; None if it cannot be evaluated, which is kept for later."""
    key = model_key(row)
    if key in read.unusable:
        return None
    if key not in read.usable:
        try:
            _require_usable(row, cluster, tp=key.tp, report=report)
        except InputError as error:
            read.unusable[key] = error
            return None
        read.usable.add(key)
        read.note_model(row, key)
    try:
        return stages.find(row, key)
    except InputError as error:
        read.note_bad(error)
        return None


def _require_usable(row: Row, cluster: Cluster, *, tp: int, report: Log | None) -> None:
    """Raise InputError if no job of this cluster could load the row's model.

    `report`, if there is one, gets the message about a directory that is not there.
    """
    frameworks.require_known_values(row)
    if problem := local_models.find_missing_directory(row, cluster.text("hf_home")):
        error = row.error("model_path", problem)
        if report is None:
            raise error
        report(str(error))
    try:
        job_resources.require_node_for(cluster, tp)
    except ValueError as error:
        raise row.error("tp", str(error)) from None


def _plan(
    read: ManifestReading, stages: RowStages, cluster: Cluster, *, start_s: float, report: Log
) -> RunPlan:
    shard_s = parse_time_limit(cluster.text("shard_time"))
    models = read.models.values()
    room = Room(
        elements=_room_beside(
            cluster.number("queue_limit"), sum(model.second_count for model in models)
        ),
        shard_s=_SHARD_S if shard_s is None else shard_s,
        start_s=start_s,
    )
    planned = plan_shards(
        [model.work() for model in models],
        room,
        lambda tp: job_resources.count_workers(cluster, tp),
    )
    plan = RunPlan(
        count=sum(model.count for model in models),
        arrays=planned.arrays,
        shards=planned.shards,
        outside=frozenset(planned.outside),
        places=read.places(planned),
        environments=list(stages.environments),
        task_directories=frozenset(read.directories),
        digests=read.digests(),
        rows_by_basis=read.bases,
        uncounted=read.uncounted,
        repeated=read.repeated,
        shared_partition=_shared_partition(planned, cluster),
        gpu_hours=_gpu_hours(planned, cluster),
    )
    return dataclasses.replace(plan, arrays=list(_limit_arrays(plan, cluster, report)))


def _room_beside(elements: int | None, second_stages: int) -> int | None:
    """Return the most elements of first stages, so that there is room for those that follow.

    Each of these has a row with a second stage, and no element is followed by more than one.
    """
    if elements is None:
        return None
    return max(1, elements // 2, elements - second_stages)


def _limit_arrays(plan: RunPlan, cluster: Cluster, report: Log) -> Iterator[Array]:
    """Yield the arrays with their GPUs, if the cluster has any, and their time limits."""
    ceilings: dict[str, int | None] = {}
    for position, planned in enumerate(plan.arrays):
        partition = job_resources.partition_of(cluster, planned)
        if partition not in ceilings:
            ceilings[partition] = _ceiling_s(cluster, partition)
        ceiling = ceilings[partition]
        longest = plan.longest_s(position)
        limit = time_limits.limit_time(longest, cluster.number("stop_before") or 0, ceiling)
        if limit is not None and longest > limit:
            report(
                f"a shard should take {display.format_duration(longest)}, more than the time limit "
                f"of {display.format_duration(limit)}: its job requeues itself and continues"
            )
        text = "" if limit is None else notation.format_time_limit(limit)
        gpus = job_resources.gpus_of_worker(cluster, planned.gpus)
        yield dataclasses.replace(planned, gpus=gpus, time_limit=text)


def _ceiling_s(cluster: Cluster, partition: str) -> int | None:
    """Return the longest time limit that a job may have: the setting's, and the partition's.

    A run may be rendered on a machine without Slurm; the partition's is not known there.
    """
    limits = [parse_time_limit(cluster.text("time_limit"))]
    if cluster.text("executor") == "slurm":
        names = find_clusters(cluster.mapping("sbatch"), os.environ)
        with contextlib.suppress(OellmError):
            limits += [commands.ask_partition_limit(partition, name) for name in names]
    return min((limit for limit in limits if limit is not None), default=None)


def _shared_partition(planned: ShardPlan, cluster: Cluster) -> str:
    is_shared = any(job_resources.is_beside_gpus(cluster, array) for array in planned.arrays)
    if not is_shared or cluster.text("cpu_partition") or cluster.text("executor") == "local":
        return ""
    return cluster.text("partition") or "Slurm's default partition"


def _gpu_hours(planned: ShardPlan, cluster: Cluster) -> float:
    """Return what jobs are charged for: each has all its GPUs until its last worker ends."""
    longest: dict[tuple[int, int], float] = {}
    for shard in planned.shards:
        element = (shard.array, shard.element)
        longest[element] = max(longest.get(element, 0.0), shard.estimate_s)
    gpus = [job_resources.gpus_of_job(cluster, one) for one in planned.arrays]
    return sum(gpus[position] * seconds for (position, _), seconds in longest.items()) / 3600


def describe_plan(plan: RunPlan) -> Iterator[str]:
    """Yield lines for people: one for all shards that are alike, one for each array, the total."""
    alike: dict[tuple[bool, int, int, str], list[int]] = {}
    for shard in plan.shards:
        is_second = plan.arrays[shard.array].follows is not None
        time = display.format_duration(shard.estimate_s)
        if shard.rows:
            kind = (is_second, shard.models, shard.rows, time)
            alike.setdefault(kind, []).append(shard.index)
    for (is_second, models, rows, time), indices in alike.items():
        suffix = " each" if len(indices) > 1 else ""
        stage = "second stage, " if is_second else ""
        ranges = format_ranges(indices)
        yield f"shards {ranges}: {stage}models: {models}, rows: {rows}, about {time}{suffix}"
    for position, planned in enumerate(plan.arrays):
        size = f"jobs: {plan.count_jobs(position)}"
        if planned.follows is not None:
            size += f", each after that of {plan.arrays[planned.follows].script}"
        if planned.workers > 1:
            size += f", workers per job: {planned.workers}"
        limit = f", time limit {planned.time_limit}" if planned.time_limit else ""
        longest = display.format_duration(plan.longest_s(position))
        yield f"{planned.script}: {size}, the longest about {longest}{limit}"
    if plan.shared_partition:
        yield (
            f"no cpu_partition is set: jobs that need no GPU are for {plan.shared_partition}, too"
        )
    if plan.uncounted:
        yield (
            f"nobody has counted the documents of {display.format_count(plan.uncounted, 'row')}: "
            f"times assume {DOCUMENTS} for each task; oe-fetch counts them"
        )
    firsts = [shard for shard in plan.shards if plan.arrays[shard.array].follows is None]
    if len(firsts) == 1 and plan.count > 1:
        yield "all rows are in one job: a smaller setting shard_time spreads them over more jobs"
    bases = ", ".join(f"{count} {basis}" for basis, count in sorted(plan.rows_by_basis.items()))
    yield f"in total about {display.format_gpu_time(plan.gpu_hours)}; times of rows: {bases}"


def _drop_duplicates(rows: Iterable[Row], report: Log) -> Iterator[Row]:
    """Yield the first row of each evaluation; report the others."""
    # The dict is a set that keeps its order, and `lines` has the line of each of its members. With
    # lines as its values it would take half as much memory again, for a few messages.
    first_rows: dict[int, None] = {}
    lines = array("I")
    duplicates = 0
    for row in rows:
        # An integer takes less memory than the 16 digits that it is written with.
        identity = int(row.cells["eval_id"], 16)
        if identity not in first_rows:
            first_rows[identity] = None
            lines.append(row.line or 0)
            yield row
            continue
        duplicates += 1
        if duplicates <= _DUPLICATES_SHOWN:
            first = lines[next(at for at, one in enumerate(first_rows) if one == identity)]
            report(f"{row.source}:{row.line}: the same evaluation as line {first}, left out")
    if duplicates > _DUPLICATES_SHOWN:
        report(f"{duplicates - _DUPLICATES_SHOWN} more duplicate rows, left out")
