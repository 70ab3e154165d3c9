"""The environment that the worker runs in: a container image, or a Python of this machine.

The batch script starts it for jobs; `worker_command` starts the same on a login node. What is
called an environment here is a key of the settings `images` and `venvs`: a framework, or
`FRAMEWORK-evaluate` for its second stage.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.clusters.binds import bind_option, list_binds
from oellm.clusters.cluster import Cluster
from oellm.errors import MachineError

# What the key of a second stage ends with; without an entry it has the environment of the first.
SECOND_STAGE = "-evaluate"
# The programs that run containers; the first one on PATH is taken.
RUNTIMES = ("apptainer", "singularity")
# Directory of NLTK's packages, below hf_home.
NLTK = "nltk_data"
# Arguments of containers that need an accelerator, which a login node lacks.
ACCELERATOR_ARGUMENTS = ("--nv", "--nvccli", "--rocm")
# Variables that a container needs to reach the hub, even if it starts with a clean environment.
_PASSED_ON = (
    *("HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
)
# The setup lines, then the command; `auto` stands for the first runtime on PATH.
_SCRIPT = """set -eo pipefail
{setup}
if [ "$1" = auto ]; then
    shift
    runtime=$(command -v apptainer || command -v singularity) || {{
        echo "neither apptainer nor singularity is on PATH of $(hostname)" >&2
        exit 3
    }}
    set -- "$runtime" "$@"
fi
exec "$@"
"""


def runtime_names(setting: str) -> tuple[str, ...]:
    """Return the programs that the setting container_runtime means."""
    return RUNTIMES if setting in ("", "auto") else (setting,)


def which_runtime(names: Iterable[str] = RUNTIMES) -> str:
    """Return the path of the first program that is on PATH; empty if none is."""
    return next((path for name in names if (path := shutil.which(name))), "")


class Launcher(NamedTuple):
    """What runs a framework: the Python to call, and the container image that has it, or None."""

    image: Path | None
    python: str


def find_launcher(cluster: Cluster, environment: str) -> Launcher:
    """Return what runs a framework, or a stage of it.

    Raises MachineError if the cluster has neither an image nor a virtual environment for it.
    """
    images, venvs = cluster.mapping("images"), cluster.mapping("venvs")
    if cluster.text("container_runtime") == "none":
        images = {}
    for name in dict.fromkeys((environment, environment.removesuffix(SECOND_STAGE))):
        if image := images.get(name):
            path = os.path.join(cluster.text("images_directory"), image)
            return Launcher(Path(os.path.abspath(path)), "python3")
        if venv := venvs.get(name):
            return Launcher(None, _python_of(venv))
    if venv := cluster.text("venv"):
        return Launcher(None, _python_of(venv))
    if cluster.text("executor") == "local":
        return Launcher(None, sys.executable)
    raise MachineError(
        f"cluster {cluster.text('name')} has no environment for {environment}: "
        f"set images.{environment} (a container image) or venvs.{environment}"
    )


def _python_of(venv: str) -> str:
    # Members of maps are not made absolute with the other paths.
    return os.path.join(os.path.abspath(os.path.expanduser(venv)), "bin", "python")


def find_node_python(cluster: Cluster) -> str:
    """Return the Python of the nodes that runs workers outside of containers."""
    return cluster.text("python") or sys.executable


def require_node_python(cluster: Cluster) -> str:
    """Return what find_node_python returns; raises MachineError if that is known not to exist."""
    python = find_node_python(cluster)
    if os.path.isabs(python) and not cluster.items("setup") and not os.path.lexists(python):
        raise MachineError(f"{python}: no such Python; set python to one of the nodes")
    return python


def runs_here(cluster: Cluster, environment: str) -> bool:
    """Return whether jobs use the environment of the Python that this process is."""
    try:
        image, python = find_launcher(cluster, environment)
    except MachineError:
        return False
    # python and python3 of one environment are one.
    return image is None and os.path.dirname(python) == os.path.dirname(sys.executable)


def require_launcher(cluster: Cluster, environment: str) -> Launcher:
    """Return what find_launcher returns; raises MachineError if the image or Python does not exist.

    Lines of the setting `setup` may make the environment in the job.
    """
    launcher = find_launcher(cluster, environment)
    if launcher.image and not launcher.image.exists():
        hint = f"set images_directory or images.{environment}"
        raise MachineError(f"{launcher.image}: no such image; {hint}")
    is_made_in_job = launcher.image or cluster.items("setup")
    if not is_made_in_job and not os.path.lexists(launcher.python):
        raise MachineError(
            f"{launcher.python}: no such Python; set venvs.{environment} or venv to a virtual "
            "environment"
        )
    return launcher


def worker_variables(
    cluster: Cluster, image: Path | None, own: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment variables of the worker; the cluster's setting `env` overrides."""
    hf_home = cluster.text("hf_home")
    given = {"HF_HOME": hf_home, "PYTHONNOUSERSITE": "1"}
    if hf_home:
        given["NLTK_DATA"] = os.path.join(hf_home, NLTK)
    if image and hf_home:
        # A container may have no home directory, but it has the shared cache.
        given["OELLM_CACHE_DIR"] = os.path.join(hf_home, "oellm")
    return {**given, **own, **cluster.mapping("env")}


def worker_command(
    cluster: Cluster, environment: str, worker: Path, paths: Iterable[str], arguments: Iterable[str]
) -> list[str]:
    """Return the command line that runs the worker here, in the environment of the jobs.

    `worker` is the frozen worker; `paths` are what it must see besides the shared directories.
    Raises MachineError if the image does not exist.
    """
    image, python = require_launcher(cluster, environment)
    assignments = [
        f"{name}={value}" for name, value in worker_variables(cluster, image, {}).items()
    ]
    start = ["env", "-u", "PYTHONPATH", "-u", "PYTHONHOME", *assignments, python, str(worker)]
    if image:
        start = [*_container(cluster, worker.parent, paths), str(image), *start]
    script = _SCRIPT.format(setup="\n".join(cluster.items("setup")))
    return ["bash", "-c", script, "bash", *start, *arguments]


def pass_to_container(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of `worker_command`: this one, and what a container takes from it.

    These are not on the command line, where everybody could read a token.
    """
    named = {name: environ[name] for name in _PASSED_ON if name in environ}
    return {
        **environ,
        **{
            f"{runtime}ENV_{name}": value
            for runtime in ("APPTAINER", "SINGULARITY")
            for name, value in named.items()
        },
    }


def _container(cluster: Cluster, directory: Path, paths: Iterable[str]) -> list[str]:
    arguments = [
        text for text in cluster.items("container_args") if text not in ACCELERATOR_ARGUMENTS
    ]
    token = os.environ.get("HF_TOKEN_PATH")
    wanted = [*paths, *([os.path.dirname(token)] if token else [])]
    lines = list_binds(cluster, directory, models=[], paths=wanted)
    bound = [text for line in lines for text in bind_option(line)]
    return [cluster.text("container_runtime"), "exec", f"--pwd={directory}", *arguments, *bound]
