"""From a manifest to a run directory."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oellm import __version__
from oellm.clusters.cluster import Cluster
from oellm.clusters.image_digest import ImageDigests
from oellm.clusters.runtime import binds, require
from oellm.core import atomic, schema
from oellm.core.paths import user_name
from oellm.errors import MachineError
from oellm.manifest.model_spec import ModelSpec
from oellm.plan import batch_script
from oellm.plan.planning import Jobs
from oellm.plan.row_spool import RowSpool
from oellm.runs import run_directory
from oellm.runs.frozen_worker import frozen_worker
from oellm.runs.run_directory import Run


def scripts(jobs: Jobs, cluster: Cluster, explicit_dir: str | None) -> Iterator[str]:
    """Yield the batch scripts that `write` would write, for a directory not made yet."""
    run_dir = Path(explicit_dir or _output_dir(cluster) / user_name() / "TIME").absolute()
    for position, array in enumerate(jobs.arrays):
        yield batch_script.render(cluster, run_dir, array, jobs.shards_of(position))


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
            "plan": jobs.record(),
            "arrays": [dataclasses.asdict(array) for array in jobs.arrays],
            "shards": [
                {**dataclasses.asdict(shard), "estimate_s": round(shard.estimate_s, 1)}
                for shard in jobs.shards
            ],
            "jobs": [],
        },
    )
    run.save()
    return run


def _output_dir(cluster: Cluster) -> Path:
    if not cluster.text("eval_output_dir"):
        raise MachineError("the setting eval_output_dir is empty")
    return Path(cluster.text("eval_output_dir"))
