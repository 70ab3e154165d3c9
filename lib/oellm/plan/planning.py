"""From a manifest to the plan of a run: which rows, how long they should take, in which shards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
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
from oellm.manifest.model_key import ModelKey, model_key
from oellm.manifest.rows import Row
from oellm.models import local_models
from oellm.plan import job_resources, time_limits
from oellm.plan.costs import CostModel
from oellm.plan.guesses import DOCUMENTS
from oellm.plan.row_spool import RowDigests, RowSpool
from oellm.plan.sharding import ModelWork, Room, ShardPlan, plan_shards
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
        shard_of: The shards of each model's rows, in the order of the manifest.
        task_directories: Directories of task files that the rows name, and paths that these name.
        digests: The digests of local models and of tasks in these directories.
        rows_by_basis: Number of rows by the basis of their estimate.
        uncounted: Number of rows whose documents nobody has counted.
        repeated: Number of rows that have results in earlier runs.
        gpu_hours: What the jobs should be charged for, GPUs of whole nodes that no worker uses
            included.
    """

    count: int
    arrays: list[Array]
    shards: list[Shard]
    shard_of: Mapping[ModelKey, array[int]]
    task_directories: frozenset[str]
    digests: RowDigests
    rows_by_basis: Mapping[str, int]
    uncounted: int
    repeated: int
    gpu_hours: float

    def count_shards(self, position: int) -> int:
        """Return the number of shards of an array."""
        return sum(shard.array == position for shard in self.shards)

    @property
    def estimate_s(self) -> float:
        """Seconds that all workers should take together."""
        return sum(shard.estimate_s for shard in self.shards)

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


class _Reading:
    """What has been read of a manifest so far."""

    def __init__(self, contents: ContentsReader) -> None:
        self._contents = contents
        self.work: dict[ModelKey, ModelWork] = {}
        # The seconds of each model's rows, which its ModelWork has, too.
        self.seconds: dict[ModelKey, array[float]] = {}
        self.directories: set[str] = set()
        self.bases: Counter[str] = Counter()
        self.uncounted = 0
        self.repeated = 0
        # The cells that name each local model.
        self.models: dict[ModelKey, Row] = {}
        # Models that no job could load.
        self.unusable: dict[ModelKey, InputError] = {}
        # Tasks that do not exist. They are told when all cells have been read.
        self.unknown_tasks: list[InputError] = []
        # Whether the row that was read last came with its eval_id, from an earlier run.
        self.is_old = False
        self.tasks: dict[tuple[str, str], str] = {}

    def note_model(self, row: Row, key: ModelKey) -> None:
        """Note a local model; not its whole row, of which there may be thousands."""
        if row.model.is_local:
            named = {name: row[name] for name in ("model_path", "model_args") if row[name]}
            self.models[key] = Row(named)

    def digests(self) -> RowDigests:
        """Return the digests of local models and of tasks, as far as they are known."""
        models = self._contents.models
        models.look_at(self.models.values())
        found = {key: models.digest(row) for key, row in self.models.items()}
        return RowDigests(
            models={key: digest for key, digest in found.items() if digest},
            tasks={names: digest for names, digest in self.tasks.items() if digest},
            directories=models.directories,
        )

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows as they are read, one by one, and note whether each is an old one."""
        for row in rows:
            self.is_old = bool(row["eval_id"])
            yield row

    def look_up(self, row: Row, check: TaskCheck) -> None:
        """Look up the task of a row, and keep what is wrong with it."""
        try:
            check.look_up(row)
        except InputError as error:
            self.unknown_tasks.append(error)

    def note_task(self, row: Row) -> None:
        """Note the directory and the digest of a task that does not come with its framework."""
        include_path, task_path = row["include_path"], row["task_path"]
        if (task_path, include_path) in self.tasks or not (include_path or "/" in task_path):
            return
        if include_path:
            self.directories.add(include_path)
        if "/" in task_path:
            self.directories.add(os.path.dirname(task_path))
        self.tasks[task_path, include_path] = self._contents.task(row).digest
        self.directories.update(self._contents.task_paths(row))


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
) -> RunPlan:
    """Read a manifest and plan its shards; a spool gets the rows, each with its eval_id.

    `earlier` are the eval_ids of rows that earlier runs have results of. `report` gets messages
    about duplicate rows, about rows of frameworks that only other tools run, and about shards that
    take longer than their time limit. Raises InputError for anything wrong in the manifest, and
    NoRowsError if it has no rows. With `only_plan`, a model that is not there is only reported.
    """
    read = _Reading(ContentsReader(cluster, report, {}))
    written = read.watch(csv_file.read_rows(stream, source, report))
    rows = complete_rows(frameworks.select_runnable(written, report), cluster)
    check = TaskCheck(cluster, report)
    for row in _drop_duplicates(rows, report):
        key = model_key(row)
        if key in read.unusable:
            continue
        if (seconds := read.seconds.get(key)) is None:
            try:
                told = report if only_plan or read.is_old else None
                _require_usable(row, cluster, tp=key.tp, report=told)
            except InputError as error:
                read.unusable[key] = error
                continue
            seconds = read.seconds[key] = array("d")
            read.work[key] = ModelWork(key, costs.load(row), seconds)
            if spool is not None:
                read.note_model(row, key)
        estimate = costs.row(row)
        seconds.append(estimate.seconds)
        read.bases[estimate.basis] += 1
        read.uncounted += not estimate.is_counted
        read.repeated += row["eval_id"] in earlier
        read.look_up(row, check)
        read.note_task(row)
        if spool is not None:
            spool.add(row, key, estimate)
    raise_errors([*read.unusable.values(), *read.unknown_tasks])
    if not read.work:
        raise NoRowsError("nothing to do: the manifest has no rows")
    return _plan(read, cluster, start_s=costs.start_s, report=report)


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


def _plan(read: _Reading, cluster: Cluster, start_s: float, report: Log) -> RunPlan:
    shard_s = parse_time_limit(cluster.text("shard_time"))
    room = Room(
        elements=cluster.number("queue_limit"),
        shard_s=_SHARD_S if shard_s is None else shard_s,
        start_s=start_s,
    )
    planned = plan_shards(
        list(read.work.values()), room, lambda tp: job_resources.count_workers(cluster, tp)
    )
    plan = RunPlan(
        count=sum(len(work.rows) for work in read.work.values()),
        arrays=planned.arrays,
        shards=planned.shards,
        shard_of=dict(zip(read.work, planned.shard_of, strict=True)),
        task_directories=frozenset(read.directories),
        digests=read.digests(),
        rows_by_basis=read.bases,
        uncounted=read.uncounted,
        repeated=read.repeated,
        gpu_hours=_gpu_hours(planned, cluster),
    )
    return dataclasses.replace(plan, arrays=list(_limit_arrays(plan, cluster, report)))


def _limit_arrays(plan: RunPlan, cluster: Cluster, report: Log) -> Iterator[Array]:
    """Yield the arrays with their GPUs, if the cluster has any, and their time limits."""
    ceiling = _ceiling_s(cluster)
    for position, planned in enumerate(plan.arrays):
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


def _ceiling_s(cluster: Cluster) -> int | None:
    """Return the longest time limit that a job may have: the setting's, and the partition's.

    A run may be rendered on a machine without Slurm; the partition's is not known there.
    """
    limits = [parse_time_limit(cluster.text("time_limit"))]
    if cluster.text("executor") == "slurm":
        partition = job_resources.partition_of(cluster)
        names = find_clusters(cluster.mapping("sbatch"), os.environ)
        with contextlib.suppress(OellmError):
            limits += [commands.ask_partition_limit(partition, name) for name in names]
    return min((limit for limit in limits if limit is not None), default=None)


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
    alike: dict[tuple[int, int, str], list[int]] = {}
    for shard in plan.shards:
        time = display.format_duration(shard.estimate_s)
        alike.setdefault((shard.models, shard.rows, time), []).append(shard.index)
    for (models, rows, time), indices in alike.items():
        suffix = " each" if len(indices) > 1 else ""
        ranges = format_ranges(indices)
        yield f"shards {ranges}: models: {models}, rows: {rows}, about {time}{suffix}"
    for position, planned in enumerate(plan.arrays):
        size = f"jobs: {planned.elements}"
        if planned.workers > 1:
            size += f", workers per job: {planned.workers}"
        limit = f", time limit {planned.time_limit}" if planned.time_limit else ""
        longest = display.format_duration(plan.longest_s(position))
        yield f"{planned.script}: {size}, the longest about {longest}{limit}"
    if plan.uncounted:
        yield (
            f"{plan.uncounted} rows: nobody has counted their documents, and their times assume "
            f"{DOCUMENTS} for each task; oe-fetch counts them"
        )
    if len(plan.shards) == 1 and plan.count > 1:
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
