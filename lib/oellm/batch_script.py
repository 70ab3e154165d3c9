"""The batch script of a run, and what its container must be able to see."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from oellm import __version__
from oellm.cluster import Cluster
from oellm.data_files import data_file
from oellm.errors import MachineError, UsageError
from oellm.models import ModelSpec
from oellm.run_directory import LOGS

# A compute node has no internet: without these an unreachable hub costs 25 s per data set.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}

# Settings that are sbatch options under another name, in the order of the script.
_SBATCH_OPTIONS = {
    "account": "account",
    "partition": "partition",
    "qos": "qos",
    "reservation": "reservation",
    "constraint": "gpu_constraint",
    "exclude": "exclude",
    "gres": "gpu_gres",
    "cpus-per-task": "cpus_per_task",
    "mem": "mem",
    "time": "time_limit",
}


def render(cluster: Cluster, run_dir: Path, shards: int, eval_suite: str) -> str:
    """Return the text of the batch script for a run with `shards` array tasks."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_file("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # the output is shell, quoted by the filters below
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["directive"] = _directive
    image, python = launcher(cluster, eval_suite)
    return environment.get_template("submit_evals.sbatch.j2").render(
        version=__version__,
        sbatch_options=_sbatch_options(cluster, run_dir, shards),
        run_dir=run_dir,
        setup=cluster.items("setup"),
        environment=_worker_environment(cluster).items(),
        image=image,
        runtime=cluster.text("container_runtime"),
        container_args=cluster.items("container_args"),
        python=python,
    )


def launcher(cluster: Cluster, eval_suite: str) -> tuple[Path | None, str]:
    """Return what runs the worker: a container image or None, and the Python to call.

    Raises MachineError where the cluster has neither an image nor an environment.
    """
    image = cluster.mapping("images").get(eval_suite)
    if image and cluster.text("container_runtime") != "none":
        path = os.path.join(cluster.text("images_directory"), image)
        return Path(os.path.abspath(path)), "python3"
    if venv := cluster.text("venv"):
        return None, os.path.join(venv, "bin", "python")
    if cluster.text("executor") == "local":
        return None, sys.executable
    raise MachineError(
        f"cluster {cluster.text('name')} has no environment for {eval_suite}: "
        f"set images.{eval_suite} (a container image) or venv"
    )


def binds(
    cluster: Cluster, run_dir: Path, models: Iterable[ModelSpec], paths: Iterable[str]
) -> list[str]:
    """Return what to bind into the container, each path once and none below another.

    These are the run directory, the shared directories, the models' directories with whatever
    their links lead to, `paths`, and the setting `binds`.
    """
    wanted = {str(run_dir), *filter(None, map(cluster.text, ("eval_base_dir", "hf_home")))}
    wanted.update(os.path.abspath(path) for path in paths)
    for model in models:
        if model.is_local:
            wanted.update(_model_directories(model.path))
    kept: list[str] = []
    for path in sorted(map(os.path.abspath, wanted)):
        if any(path == other or path.startswith(f"{other}/") for other in kept):
            continue
        if ":" in path or "," in path:
            raise UsageError(f"{path}: a path with ':' or ',' cannot be bound into a container")
        kept.append(path)
    return kept + cluster.items("binds")


def _model_directories(path: str) -> Iterator[str]:
    # The parent: the checkpoints of one training run share it, so the list stays short.
    for directory in {path, os.path.realpath(path)}:
        parent = os.path.dirname(directory)
        yield parent if parent != "/" else directory
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield os.path.dirname(os.path.realpath(entry.path))


def _worker_environment(cluster: Cluster) -> dict[str, str]:
    own = {"HF_HOME": cluster.text("hf_home"), "PYTHONNOUSERSITE": "1", **_OFFLINE}
    return {**own, **cluster.mapping("env")}


def _sbatch_options(cluster: Cluster, run_dir: Path, shards: int) -> list[tuple[str, Any]]:
    throttle = cluster.number("concurrency")
    array = f"0-{shards - 1}" + (f"%{throttle}" if throttle else "")
    # In file names Slurm replaces %-patterns.
    logs = str(run_dir / LOGS).replace("%", "%%")
    options: dict[str, Any] = {
        "job-name": f"oellm-{run_dir.name}",
        "array": array,
        "output": f"{logs}/%A_%a.log",
        "open-mode": "append",
        "export": "NONE",
        "nodes": 1,
        "ntasks": 1,
    }
    for option, key in _SBATCH_OPTIONS.items():
        if cluster.text(key):
            options[option] = cluster.text(key)
    return list({**options, **cluster.mapping("sbatch")}.items())


def _directive(value: object) -> str:
    """Return `=VALUE` for a #SBATCH line, which is split at blanks; nothing for a bare flag."""
    text = str(value)
    if not text or all(char.isalnum() or char in "-_./:=,+%@[]" for char in text):
        return f"={text}" if text else ""
    return '="' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
