"""From the plan of a run to its run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oellm.clusters.binds import bind_line, list_binds
from oellm.clusters.cluster import Cluster
from oellm.clusters.image_digest import ImageDigests, ImageRecord
from oellm.clusters.runtime import require_launcher, require_node_python
from oellm.core import atomic, schema
from oellm.core.paths import make_directory, make_shared_directory, user_name
from oellm.errors import MachineError
from oellm.manifest.model_spec import ModelSpec
from oellm.plan import batch_script
from oellm.plan.batch_script import ScriptFrame
from oellm.plan.planning import RunPlan
from oellm.plan.row_spool import RowSpool
from oellm.runs import run_directory
from oellm.runs.accepted_contents import AcceptedContents, write_accepted
from oellm.runs.frozen_worker import freeze_worker
from oellm.runs.places import new_directory
from oellm.runs.run_directory import Run


class RunPlace(NamedTuple):
    """What a user says of a new run.

    Attributes:
        name: The name of the run; empty if it has none.
        explicit_dir: Its directory; None for one of its own below the setting eval_output_dir.
    """

    name: str = ""
    explicit_dir: str | None = None


def render_scripts(plan: RunPlan, cluster: Cluster, place: RunPlace) -> Iterator[str]:
    """Yield the batch scripts that `write_run` would write, without making a directory."""
    made = _output_dir(cluster) / user_name() / new_directory.directory_name("TIME", place.name)
    run_dir = Path(place.explicit_dir or made).absolute()
    for _, script in _scripts(plan, cluster, run_dir, name=place.name):
        yield script


def write_run(
    plan: RunPlan,
    spool: RowSpool,
    cluster: Cluster,
    *,
    place: RunPlace,
    digests: ImageDigests,
) -> Run:
    """Write the run directory, with the spooled rows, and return the run.

    An incomplete run directory is removed. Raises MachineError if the image or the shared directory
    is missing, and InputError if the directory asked for exists.
    """
    images: list[ImageRecord] = []
    # This takes time, so it is done before there is a directory that an interrupt could leave.
    for environment in plan.environments:
        image, _ = require_launcher(cluster, environment)
        if image and str(image) not in [known.path for known in images]:
            images.append(digests.describe_image(environment, image))
    if plan.outside:
        require_node_python(cluster)
    path = new_directory.create_run_directory(
        _output_dir(cluster), user_name(), place.explicit_dir, name=place.name
    )
    try:
        return _fill_directory(path, plan, spool, cluster=cluster, images=images, name=place.name)
    except BaseException:
        shutil.rmtree(path)
        raise


def _fill_directory(
    path: Path,
    plan: RunPlan,
    spool: RowSpool,
    *,
    cluster: Cluster,
    images: list[ImageRecord],
    name: str,
) -> Run:
    for folder in (run_directory.LOGS, run_directory.RESULTS):
        make_directory(path / folder)
    jobs = path / run_directory.JOBS
    with atomic.naming_file(jobs), atomic.create_text(jobs) as stream:
        spool.write_jobs(stream, plan.places, plan.digests)
    if plan.digests.directories:
        # oe-submit reads only what has changed by then.
        directories = dict(plan.digests.directories)
        known = AcceptedContents({}, {}, kept=frozenset(), directories=directories)
        write_accepted(path, known)
    worker = freeze_worker(array.eval_suite for array in plan.arrays)
    atomic.write_file(path / run_directory.WORKER, worker)
    for file_name, script in _scripts(plan, cluster, path, name=name):
        atomic.write_file(path / file_name, script.encode("utf-8", "surrogateescape"))
    if images:
        make_shared_directory(Path(cluster.text("hf_home")))
        bound = list_binds(cluster, path, models=_models(plan), paths=plan.task_directories)
        # The script binds the run directory, wherever that is then.
        lines = "".join(f"{line}\n" for line in bound if line != bind_line(str(path)))
        atomic.write_file(path / run_directory.BINDS, lines.encode("utf-8", "surrogateescape"))
    run = Run(path, _record(path, plan, cluster, images=images, worker=worker, name=name))
    run.save()
    return run


def _record(
    path: Path,
    plan: RunPlan,
    cluster: Cluster,
    *,
    images: Sequence[ImageRecord],
    worker: bytes,
    name: str,
) -> dict[str, Any]:
    """Return what run.json holds of a new run."""
    record = run_directory.new_record(
        path, cluster.settings, worker=worker, arrays=plan.arrays, shards=plan.shards
    )
    record |= {
        **({"name": name} if name else {}),
        "images": [image.to_json() for image in images],
        "n_rows": plan.count,
        "plan": plan.to_json(),
    }
    return {key: record[key] for key in schema.table("run") if key in record}


def _scripts(
    plan: RunPlan, cluster: Cluster, run_dir: Path, *, name: str
) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each batch script."""
    for position, array in enumerate(plan.arrays):
        frame = ScriptFrame(
            last_shard=array.first_shard + plan.count_shards(position) - 1,
            is_outside=position in plan.outside,
            is_followed=any(other.follows == position for other in plan.arrays),
            run_name=name,
        )
        yield array.script, batch_script.render_script(cluster, run_dir, array, frame=frame)


def _models(plan: RunPlan) -> Iterator[ModelSpec]:
    """Yield the models of a plan with all their arguments."""
    for key in dict.fromkeys(work.model for work in plan.places.shards):
        spec = ModelSpec.parse(key.model_path)
        yield ModelSpec.of(spec.path, {**json.loads(key.model_args), **dict(spec.arguments)})


def _output_dir(cluster: Cluster) -> Path:
    if not cluster.text("eval_output_dir"):
        raise MachineError("the setting eval_output_dir is empty")
    return Path(cluster.text("eval_output_dir"))
