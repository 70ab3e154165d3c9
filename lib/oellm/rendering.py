"""From a manifest to a run directory."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from oellm import (
    __version__,
    atomic,
    batch_script,
    frameworks,
    manifest,
    node_shape,
    run_directory,
    schema,
)
from oellm.cluster import Cluster, user_name
from oellm.errors import InputError, MachineError
from oellm.first_lines import FirstLines
from oellm.frozen_worker import frozen_worker
from oellm.image_digest import ImageDigests
from oellm.manifest import Row
from oellm.models import ModelSpec
from oellm.row_spool import RowSpool
from oellm.run_directory import Run
from oellm.shards import Array, ModelKey, Shard, model_key, plan
from oellm.slurm import ranges
from oellm.worker_environment import binds, require

# Row columns that a setting of the same name fills where they are empty.
_DEFAULTED = ("batch_size", "dtype", "tp")
# Rows that are there twice and have a message of their own.
_REPEATED_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Jobs:
    """What is to know of a run's rows, and the shards that evaluate them."""

    count: int
    arrays: list[Array]
    shards: list[Shard]
    shard_of: Mapping[ModelKey, int]
    task_directories: frozenset[str]

    def shards_of(self, array: int) -> int:
        """Return how many shards an array has."""
        return sum(shard.array == array for shard in self.shards)


def read_jobs(
    stream: TextIO,
    source: str,
    cluster: Cluster,
    report: Callable[[str], None],
    spool: RowSpool | None,
) -> Jobs:
    """Read a manifest and plan its shards; the rows go to the spool, each with its eval_id.

    `report` is told of rows that are there twice. Raises InputError for anything wrong in the
    manifest, and where it has no rows.
    """
    counts: dict[ModelKey, int] = {}
    directories: set[str] = set()
    for row in _once(_identified(manifest.read(stream, source), cluster), report):
        key = model_key(row)
        if key not in counts:
            frameworks.require(row)
        counts[key] = counts.get(key, 0) + 1
        if include_path := row["include_path"]:
            directories.add(include_path)
        if "/" in row["task_path"]:
            directories.add(os.path.dirname(row["task_path"]))
        if spool is not None:
            spool.add(row, key)
    if not counts:
        raise InputError("the manifest has no rows", source)
    arrays, shards, shard_of = plan(counts, cluster.number("queue_limit") or len(counts))
    arrays, shards = _on_nodes(arrays, shards, shard_of, cluster)
    return Jobs(sum(counts.values()), arrays, shards, shard_of, frozenset(directories))


def _on_nodes(
    arrays: list[Array], shards: list[Shard], shard_of: Mapping[ModelKey, int], cluster: Cluster
) -> tuple[list[Array], list[Shard]]:
    """Return the arrays with as many workers as a node has room for, and their shards."""
    tp = [1] * len(arrays)
    for key, shard in shard_of.items():
        position = shards[shard].array
        tp[position] = max(tp[position], key.tp)
    workers = [node_shape.workers(cluster, gpus) for gpus in tp]
    placed = [
        dataclasses.replace(shard, element=shard.element // workers[shard.array])
        for shard in shards
    ]
    changed = [
        dataclasses.replace(
            array,
            gpus=node_shape.gpus_of_worker(cluster, tp[position]),
            workers=workers[position],
            elements=-(-array.elements // workers[position]),
        )
        for position, array in enumerate(arrays)
    ]
    return changed, placed


def plan_lines(jobs: Jobs) -> Iterator[str]:
    """Yield the plan in words, one line for all shards of the same size."""
    alike: dict[tuple[int, int], list[int]] = {}
    for shard in jobs.shards:
        alike.setdefault((shard.models, shard.rows), []).append(shard.index)
    for (models, rows), indices in alike.items():
        each = " each" if len(indices) > 1 else ""
        yield f"shards {ranges(indices)}: models: {models}, rows: {rows}{each}"


def script(jobs: Jobs, cluster: Cluster, explicit_dir: str | None) -> str:
    """Return the batch script that `write` would write, for a directory not made yet."""
    run_dir = Path(explicit_dir or _output_dir(cluster) / user_name() / "TIME").absolute()
    return batch_script.render(cluster, run_dir, jobs.arrays[0], jobs.shards_of(0))


def write(
    jobs: Jobs,
    spool: RowSpool,
    cluster: Cluster,
    explicit_dir: str | None,
    digests: ImageDigests,
) -> Run:
    """Write the run directory, with the spooled rows, and return the run.

    Raises MachineError where the image or the shared directory is missing, and InputError where
    the directory asked for exists; an incomplete run directory is removed.
    """
    images = []
    # Before there is a directory that an interrupted command would leave.
    for eval_suite in dict.fromkeys(array.eval_suite for array in jobs.arrays):
        image, _ = require(cluster, eval_suite)
        if image:
            images.append(digests.record(eval_suite, image))
    path = run_directory.create(_output_dir(cluster), user_name(), explicit_dir)
    try:
        return _fill(path, jobs, spool, cluster, images)
    except BaseException:
        shutil.rmtree(path)
        raise


def _fill(
    path: Path, jobs: Jobs, spool: RowSpool, cluster: Cluster, images: list[dict[str, Any]]
) -> Run:
    for name in (run_directory.LOGS, "results"):
        (path / name).mkdir()
    with open(path / run_directory.JOBS, "w", encoding="utf-8", newline="") as stream:
        spool.write(stream, jobs.shard_of)
    worker = frozen_worker()
    atomic.write_file(path / run_directory.WORKER, worker)
    for position, array in enumerate(jobs.arrays):
        script = batch_script.render(cluster, path, array, jobs.shards_of(position))
        atomic.write_file(path / array.script, script.encode("utf-8", "surrogateescape"))
    if images:
        Path(cluster.text("hf_home")).mkdir(parents=True, exist_ok=True)
        models = {ModelSpec.parse(key.model_path) for key in jobs.shard_of}
        bound = binds(cluster, path, models, jobs.task_directories)
        atomic.write_file(path / run_directory.BINDS, "".join(f"{b}\n" for b in bound).encode())
    run = Run(
        path,
        {
            "schema_version": schema.VERSION,
            "run_dir": str(path),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "oellm_version": __version__,
            "cluster": dict(cluster.settings),
            "worker": {
                "file": run_directory.WORKER,
                "sha256": hashlib.sha256(worker).hexdigest(),
            },
            "images": images,
            "n_rows": jobs.count,
            "plan": {},
            "arrays": [dataclasses.asdict(array) for array in jobs.arrays],
            "shards": [dataclasses.asdict(shard) for shard in jobs.shards],
            "jobs": [],
        },
    )
    run.save()
    return run


def _identified(rows: Iterable[Row], cluster: Cluster) -> Iterator[Row]:
    """Yield the rows with the cluster's defaults, absolute paths, and the eval_id."""
    defaults = {name: cluster.text(name) for name in _DEFAULTED if cluster.text(name)}
    locator = manifest.Locator()
    for row in rows:
        yield manifest.identified(locator.located(_with_defaults(row, defaults)))


def _with_defaults(row: Row, defaults: Mapping[str, str]) -> Row:
    """Fill cells that are empty; the row has all these columns then."""
    filled = {name: text for name, text in defaults.items() if not row[name]}
    if "dtype" in filled and row["eval_id"]:
        # The row was identified before, as it is: no default may make another evaluation of it.
        filled["dtype"] = ""
    return row.with_cells(**filled) if filled else row


def _once(rows: Iterable[Row], report: Callable[[str], None]) -> Iterator[Row]:
    """Yield the first row of each evaluation; `report` is told of the others."""
    first_lines = FirstLines()
    repeated = 0
    for row in rows:
        first = first_lines.add(row["eval_id"], row.line or 0)
        if first is None:
            yield row
            continue
        repeated += 1
        if repeated <= _REPEATED_SHOWN:
            report(f"{row.source}:{row.line}: the same evaluation as line {first}, left out")
    if repeated > _REPEATED_SHOWN:
        report(f"{repeated - _REPEATED_SHOWN} more rows are there twice, left out")


def _output_dir(cluster: Cluster) -> Path:
    if not cluster.text("eval_output_dir"):
        raise MachineError("the setting eval_output_dir is empty")
    return Path(cluster.text("eval_output_dir"))
