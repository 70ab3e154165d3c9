"""The batch script of a job array."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from oellm import __version__
from oellm.clusters import gpu_variables
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import find_launcher, find_node_python, worker_variables
from oellm.core.paths import data_file
from oellm.errors import UsageError
from oellm.plan import job_resources
from oellm.runs.provenance import SLURM_VARIABLES
from oellm.runs.run_directory import LOGS
from oellm.runs.run_record import Array
from oellm.slurm.notation import clamp_stop_before, parse_time_limit

# Compute nodes have no internet; without these, each data set waits 25 s for the hub.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}

_STAGE_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


class ScriptFrame(NamedTuple):
    """What a batch script has to know besides its array.

    Attributes:
        last_shard: The last shard of the array.
        is_outside: Whether its workers run on the node, and start containers themselves.
        is_followed: Whether another array computes second stages of its rows.
        run_name: The name of the run; empty if it has none.
    """

    last_shard: int
    is_outside: bool = False
    is_followed: bool = False
    run_name: str = ""


def render_script(cluster: Cluster, run_dir: Path, array: Array, frame: ScriptFrame) -> str:
    """Return the text of the batch script of an array.

    Raises UsageError if a script cannot express the directory or a setting.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_file("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Not {#, which Bash has in ${#array[@]}.
        comment_start_string="{*",
        comment_end_string="*}",
        autoescape=False,  # noqa: S701  # the output is shell, quoted by the filters below
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["directive"] = _directive
    _require_expressible(run_dir)
    if frame.is_outside:
        image, python = None, find_node_python(cluster)
    else:
        image, python = find_launcher(cluster, array.eval_suite)
    stage_dir, stage_variables = _stage_dir(cluster, is_bound=bool(image))
    if array.follows is not None:
        # Second stages load no model, and their nodes may lack the directory.
        stage_dir, stage_variables = "", []
    return environment.get_template("submit_evals.sbatch.j2").render(
        frame._asdict(),
        version=__version__,
        sbatch_options=_sbatch_options(cluster, array, frame.run_name or f"oellm-{run_dir.name}"),
        array=array,
        setup=cluster.items("setup"),
        allow_cpu=cluster.switch("allow_cpu"),
        job_variables=[*SLURM_VARIABLES, *stage_variables],
        gpu_variables=gpu_variables.order_by_settings(
            cluster.items("container_args"), job_resources.gres_of_job(cluster, array)
        ),
        nvidia=gpu_variables.NVIDIA,
        amd=gpu_variables.AMD,
        environment=worker_variables(cluster, image, _OFFLINE).items(),
        image=image,
        runtime=cluster.text("container_runtime"),
        container_args=cluster.items("container_args"),
        stage_dir=stage_dir,
        python=python,
    )


def _sbatch_options(cluster: Cluster, array: Array, job_name: str) -> list[tuple[str, Any]]:
    throttle = cluster.number("concurrency")
    time_limit = array.time_limit or cluster.text("time_limit")
    is_beside_gpus = job_resources.is_beside_gpus(cluster, array)
    # Of another partition, these say nothing.
    elsewhere = is_beside_gpus and bool(cluster.text("cpu_partition"))
    options: dict[str, Any] = {
        "job-name": job_name,
        "array": f"0-{array.elements - 1}" + (f"%{throttle}" if throttle else ""),
        # For who submits it from the run directory; oe-submit gives the whole path.
        "output": f"{LOGS}/%A_%a.log",
        "open-mode": "append",
        "requeue": "",
        "export": "NONE",
        "nodes": 1,
        "ntasks": 1,
    }
    chosen = {
        "account": cluster.text("account"),
        "partition": job_resources.partition_of(cluster, array),
        "qos": "" if elsewhere else cluster.text("qos"),
        "reservation": "" if elsewhere else cluster.text("reservation"),
        "constraint": "" if is_beside_gpus else cluster.text("gpu_constraint"),
        "exclude": cluster.text("exclude"),
        "gres": job_resources.gres_of_job(cluster, array),
        "cpus-per-task": str(job_resources.cpus_of_job(cluster, array) or ""),
        "mem": job_resources.memory_of_job(cluster, array),
        "time": time_limit,
    }
    options |= {option: text for option, text in chosen.items() if text}
    wanted = cluster.number("stop_before")
    if seconds := clamp_stop_before(wanted, parse_time_limit(time_limit)):
        # B: Slurm signals the script only, which passes the signal on.
        options["signal"] = f"B:USR1@{seconds}"
    return list({**options, **job_resources.sbatch_options_of(cluster, array)}.items())


def _require_expressible(run_dir: Path) -> None:
    """Raise UsageError if Slurm could not write logs into the run directory."""
    if re.search(r"[\x00-\x1f\x7f\\]", str(run_dir)):
        raise UsageError(
            f"run directory {str(run_dir)!r}: expected no control characters and no backslash, "
            "because Slurm opens no log with them"
        )


def _stage_dir(cluster: Cluster, is_bound: bool) -> tuple[str, list[str]]:
    """Return the setting stage_dir as a word of the script, and the variables in it.

    Raises UsageError if it is no absolute path, or if it is to be bound into a container and
    cannot be.
    """
    text = cluster.text("stage_dir")
    parts = _STAGE_VARIABLE.split(text)
    # Between two literal parts the split leaves two groups, of which one has matched.
    literals, names = parts[::3], [a or b for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    if text and (not text.startswith(("/", "$")) or re.search("[${}]", "".join(literals))):
        raise UsageError(
            f"setting stage_dir: expected an absolute path, with variables as $NAME or ${{NAME}}, "
            f"got {text!r}"
        )
    if is_bound and re.search("[,:]", "".join(literals)):
        raise UsageError(
            f"setting stage_dir: a path with ':' or ',' cannot be bound into a container: {text!r}"
        )
    word = "".join(
        (f'"${{{name}:?is needed by the setting stage_dir}}"' if name else "")
        + (shlex.quote(literal) if literal else "")
        for name, literal in zip(["", *names], literals, strict=True)
    )
    return word, list(dict.fromkeys(names))


def _directive(value: object) -> str:
    """Return `=VALUE` for a #SBATCH line, quoted if it needs to be; nothing for a bare flag."""
    text = str(value)
    if not text or all(char.isalnum() or char in "-_./:=,+%@[]" for char in text):
        return f"={text}" if text else ""
    return '="' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
