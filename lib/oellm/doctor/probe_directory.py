"""What the job of oe-doctor needs on disk: a run directory without rows, and files to look for.

Its worker is this library with another entry, oellm.doctor.node_probe; everything else is as for a
run: the same template, binds, container arguments and variables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm import __version__, frameworks
from oellm.clusters.binds import bind_line, list_binds
from oellm.clusters.cluster import Cluster
from oellm.core import schema
from oellm.core.log import Log
from oellm.core.paths import make_shared_directory, user_name
from oellm.doctor import directories, environments
from oellm.doctor.slurm_checks import model_array
from oellm.errors import MachineError
from oellm.plan import batch_script
from oellm.plan.batch_script import ScriptFrame
from oellm.runs import run_directory
from oellm.runs.frozen_worker import freeze_worker
from oellm.runs.run_directory import LOGS, Run
from oellm.runs.run_record import Array, Shard

ENTRY = "oellm.doctor.node_probe"
FINDINGS = "findings"
# What the name of a script ends with in FINDINGS after it has ended, whatever came of it.
ENDED = ".ended"
# The scripts of a worker in the environment of models, and of one that starts containers itself.
INSIDE, OUTSIDE = "inside.sbatch", "outside.sbatch"
JOB = "job.sbatch"
PROBE = "probe"
# The settings of directories that a node must see.
SHARED = ("hf_home", "eval_output_dir")
_PREFIX = ".oellm-doctor-"
# The job takes some seconds; an image on a cold file system takes its time to start.
_TIME_LIMIT = "00:10:00"


class ProbeFacts(NamedTuple):
    """What this machine tells the node (key `probe` in run.json).

    Attributes:
        host: Its name.
        marks: By setting, a file in that directory that this machine has locked.
        skew_s: Seconds by which its clock is ahead of the file system's.
        unbuilt: By the environment, the definition that makes its image, which is not there yet.
    """

    host: str
    marks: Mapping[str, str]
    skew_s: float
    unbuilt: Mapping[str, str]


@contextlib.contextmanager
def probe_directory(cluster: Cluster, log: Log) -> Iterator[Run]:
    """Give the run directory of a job that looks at its node; nothing of it stays.

    Raises MachineError if it cannot be made, or the cluster has no environment.
    """
    with contextlib.ExitStack() as made:
        places = {key: Path(cluster.text(key)) for key in SHARED}
        try:
            for key, place in places.items():
                if not cluster.text(key):
                    raise MachineError(f"the setting {key} is empty")
                made.callback(_remove_empty, _make_shared(place))
            user = places["eval_output_dir"] / user_name()
            made.callback(_remove_empty, _make_shared(user))
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=user))
            made.callback(_remove, path, log)
            marks = {key: made.enter_context(_locked_mark(place)) for key, place in places.items()}
            # A job of another node, or of another user namespace, must be able to read it.
            path.chmod(0o755)
            facts = ProbeFacts(
                socket.gethostname(),
                marks,
                skew_s=directories.measure_skew(path),
                unbuilt=_find_unbuilt(cluster),
            )
            run = _fill(path, cluster, facts)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
            raise MachineError(f"a job needs a directory: {reason}") from None
        yield run


def _fill(path: Path, cluster: Cluster, facts: ProbeFacts) -> Run:
    """Write what a run directory has; the job's script runs those of its workers."""
    arrays = _plan(cluster, facts.unbuilt)
    shards = [
        Shard(array.first_shard + number, position, 0, models=0, rows=0, estimate_s=0.0)
        for position, array in enumerate(arrays)
        for number in range(array.workers)
    ]
    (path / run_directory.LOGS).mkdir()
    (path / FINDINGS).mkdir()
    worker = freeze_worker([], entry=ENTRY)
    (path / run_directory.WORKER).write_bytes(worker)
    (path / run_directory.JOBS).write_text(",".join([*schema.required("manifest"), "eval_id\n"]))
    lines = list_binds(cluster, path, models=[], paths=[])
    bound = "".join(f"{line}\n" for line in lines if line != bind_line(str(path)))
    (path / run_directory.BINDS).write_bytes(bound.encode("utf-8", "surrogateescape"))
    scripts = {array.script: _render(cluster, path, array) for array in arrays}
    scripts[JOB] = _join(list(scripts), scripts[arrays[0].script])
    for name, text in scripts.items():
        (path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    record = run_directory.new_record(
        path, cluster.settings, worker=worker, arrays=arrays, shards=shards
    )
    run = Run(path, {**record, PROBE: facts._asdict()})
    run.save()
    return run


def _find_unbuilt(cluster: Cluster) -> dict[str, str]:
    """Return the environments without an image yet, and the definitions that make these."""
    found = environments.find_environments(cluster)
    return {key: name for one in found if (name := one.find_unbuilt()) for key in one.keys}


def _plan(cluster: Cluster, unbuilt: Container[str]) -> list[Array]:
    """Return the arrays of the job: that of an environment for models, if any, and of the node."""
    keys = [key for one in environments.find_environments(cluster) for key in one.keys]
    resident = [key for key in keys if frameworks.is_resident(key) and key not in unbuilt]
    node = dataclasses.replace(model_array(cluster, "", _TIME_LIMIT), script=OUTSIDE, workers=1)
    if not resident:
        return [node]
    inside = dataclasses.replace(model_array(cluster, resident[0], _TIME_LIMIT), script=INSIDE)
    return [inside, dataclasses.replace(node, first_shard=inside.workers)]


def _render(cluster: Cluster, path: Path, array: Array) -> str:
    last = array.first_shard + array.workers - 1
    frame = ScriptFrame(last_shard=last, is_outside=array.script == OUTSIDE)
    return batch_script.render_script(cluster, path, array, frame=frame)


def _join(names: Iterable[str], first: str) -> str:
    """Return a script that asks for what the first one does, and runs them all."""
    asked = [line for line in first.splitlines() if line.startswith("#SBATCH ")]
    lines = [
        "#!/bin/bash",
        f"# Written by oe-doctor {__version__}: what the jobs of a run would start, one by one.",
        *asked,
    ]
    for name in names:
        lines.append(f'bash "$2/{name}" "$@" </dev/null >"$2/{LOGS}/{name}.log" 2>&1')
        lines.append(f': >"$2/{FINDINGS}/{name}{ENDED}"')
    lines.append("exit 0")
    return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def _locked_mark(directory: Path) -> Iterator[str]:
    """Give a new file in a directory, which this process has locked if it can."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=_PREFIX) as stream:
        os.chmod(stream.name, 0o666)  # noqa: S103
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.name


def _make_shared(directory: Path) -> list[Path]:
    """Make a directory and those above it; return the new ones, the lowest first."""
    new = [place for place in (directory, *directory.parents) if not place.exists()]
    make_shared_directory(directory)
    return new


def _remove_empty(places: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for place in places:
            place.rmdir()


def _remove(path: Path, log: Log) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log(f"{path} could not be removed")
