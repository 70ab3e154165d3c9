"""From a manifest to a run directory."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from oellm import __version__, atomic, batch_script, frameworks, manifest, run_directory, schema
from oellm.cluster import Cluster, user_name
from oellm.errors import InputError, MachineError
from oellm.frozen_worker import frozen_worker
from oellm.models import ModelSpec
from oellm.run_directory import Run
from oellm.shards import ModelKey, Shard, model_key, plan
from oellm.slurm import ranges

# Row columns that a setting of the same name fills where they are empty.
_DEFAULTED = ("batch_size", "dtype")


@dataclasses.dataclass(frozen=True)
class Jobs:
    """The rows of a run, each with its eval_id, and the shards that evaluate them."""

    rows: list[manifest.Row]
    shards: list[Shard]
    shard_of: dict[ModelKey, int]

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def eval_suite(self) -> str:
        """The framework of all shards."""
        return self.shards[0].eval_suite


def read_jobs(stream: TextIO, source: str, cluster: Cluster, report: Callable[[str], None]) -> Jobs:
    """Read a manifest and plan its shards; `report` is told of rows that are there twice.

    Raises InputError for anything wrong in the manifest, and where it has no rows.
    """
    rows: dict[str, manifest.Row] = {}
    counts: dict[ModelKey, int] = {}
    for read in manifest.read(stream, source):
        frameworks.require(read)
        row = manifest.identified(manifest.located(_with_defaults(read, cluster)))
        if (first := rows.get(row["eval_id"])) is not None:
            report(f"{source}:{row.line}: the same evaluation as line {first.line}, left out")
            continue
        rows[row["eval_id"]] = row
        key = model_key(row)
        counts[key] = counts.get(key, 0) + 1
    if not rows:
        raise InputError("the manifest has no rows", source)
    shards, shard_of = plan(counts, cluster.number("queue_limit") or len(counts))
    return Jobs(list(rows.values()), shards, shard_of)


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
    return batch_script.render(cluster, run_dir, len(jobs.shards), jobs.eval_suite)


def write(jobs: Jobs, cluster: Cluster, explicit_dir: str | None) -> Run:
    """Write the run directory and return the run.

    Raises MachineError where the image or the shared directory is missing, and InputError where
    the directory asked for exists; an incomplete run directory is removed.
    """
    image, _ = batch_script.launcher(cluster, jobs.eval_suite)
    if image and not image.exists():
        raise MachineError(
            f"{image}: no such image; set images_directory or images.{jobs.eval_suite}"
        )
    path = run_directory.create(_output_dir(cluster), user_name(), explicit_dir)
    try:
        return _fill(path, jobs, cluster, image)
    except BaseException:
        shutil.rmtree(path)
        raise


def _fill(path: Path, jobs: Jobs, cluster: Cluster, image: Path | None) -> Run:
    for name in (run_directory.LOGS, "results"):
        (path / name).mkdir()
    with open(path / run_directory.JOBS, "w", encoding="utf-8", newline="") as stream:
        _write_rows(stream, jobs)
    worker = frozen_worker()
    atomic.write_file(path / run_directory.WORKER, worker)
    script = batch_script.render(cluster, path, len(jobs.shards), jobs.eval_suite)
    atomic.write_file(path / run_directory.SCRIPT, script.encode("utf-8", "surrogateescape"))
    if image:
        Path(cluster.text("hf_home")).mkdir(parents=True, exist_ok=True)
        models = {ModelSpec.parse(key.model_path) for key in jobs.shard_of}
        bound = batch_script.binds(cluster, path, models, _task_directories(jobs))
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
            "n_rows": jobs.count,
            "shards": [dataclasses.asdict(shard) for shard in jobs.shards],
            "jobs": [],
        },
    )
    run.save()
    return run


def _task_directories(jobs: Jobs) -> set[str]:
    includes = {row["include_path"] for row in jobs.rows}
    files = {str(Path(row["task_path"]).parent) for row in jobs.rows if "/" in row["task_path"]}
    return (includes | files) - {""}


def _write_rows(stream: TextIO, jobs: Jobs) -> None:
    columns = dict.fromkeys(column for row in jobs.rows for column in row.cells)
    columns.pop("shard", None)
    writer = manifest.Writer(stream)
    writer.header([*columns, "shard"])
    for row in jobs.rows:
        writer.write(row.with_cells(shard=str(jobs.shard_of[model_key(row)])))


def _with_defaults(row: manifest.Row, cluster: Cluster) -> manifest.Row:
    """Fill cells that are empty from the cluster's settings."""
    filled = {
        column: cluster.text(column)
        for column in _DEFAULTED
        if not row[column] and cluster.text(column)
    }
    if row["eval_id"]:
        # The row was identified before, as it is: no default may make another evaluation of it.
        filled.pop("dtype", None)
    return row.with_cells(**filled)


def _output_dir(cluster: Cluster) -> Path:
    if not cluster.text("eval_output_dir"):
        raise MachineError("the setting eval_output_dir is empty")
    return Path(cluster.text("eval_output_dir"))
