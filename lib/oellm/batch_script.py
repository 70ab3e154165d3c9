"""The batch script of a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from oellm import __version__
from oellm.cluster import Cluster
from oellm.data_files import data_file
from oellm.run_directory import LOGS
from oellm.shards import Array
from oellm.slurm import parse_duration
from oellm.worker_environment import launcher, variables

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


def render(cluster: Cluster, run_dir: Path, array: Array) -> str:
    """Return the text of the batch script of an array."""
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
    image, python = launcher(cluster, array.eval_suite)
    return environment.get_template("submit_evals.sbatch.j2").render(
        version=__version__,
        sbatch_options=_sbatch_options(cluster, run_dir, array.elements),
        run_dir=run_dir,
        setup=cluster.items("setup"),
        environment=variables(cluster, image, _OFFLINE).items(),
        image=image,
        runtime=cluster.text("container_runtime"),
        container_args=cluster.items("container_args"),
        python=python,
    )


def fitted(cluster: Cluster) -> Cluster:
    """Return the cluster with a stop_before of at most half of its time_limit.

    A job that is told when it starts would do nothing else than requeue itself.
    """
    wanted, limit = cluster.number("stop_before"), parse_duration(cluster.text("time_limit"))
    if wanted is None or limit is None or wanted <= limit // 2:
        return cluster
    return Cluster(
        {**cluster.settings, "stop_before": limit // 2},
        {**cluster.origins, "stop_before": "half of time_limit"},
    )


def _sbatch_options(cluster: Cluster, run_dir: Path, elements: int) -> list[tuple[str, Any]]:
    throttle = cluster.number("concurrency")
    array = f"0-{elements - 1}" + (f"%{throttle}" if throttle else "")
    # In file names Slurm replaces %-patterns.
    logs = str(run_dir / LOGS).replace("%", "%%")
    options: dict[str, Any] = {
        "job-name": f"oellm-{run_dir.name}",
        "array": array,
        "output": f"{logs}/%A_%a.log",
        "open-mode": "append",
        "requeue": "",
        "export": "NONE",
        "nodes": 1,
        "ntasks": 1,
    }
    for option, key in _SBATCH_OPTIONS.items():
        if cluster.text(key):
            options[option] = cluster.text(key)
    if seconds := cluster.number("stop_before"):
        # B: only the script gets it, which passes it on.
        options["signal"] = f"B:USR1@{seconds}"
    return list({**options, **cluster.mapping("sbatch")}.items())


def _directive(value: object) -> str:
    """Return `=VALUE` for a #SBATCH line, which is split at blanks; nothing for a bare flag."""
    text = str(value)
    if not text or all(char.isalnum() or char in "-_./:=,+%@[]" for char in text):
        return f"={text}" if text else ""
    return '="' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
