"""What the job of oe-doctor finds on its node: the entry of the worker in its run directory.

It writes what it has found after each check, so that one that hangs hides only itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.core import atomic, json_codec
from oellm.core.display import format_size
from oellm.doctor import directories, environments, machine_checks
from oellm.doctor.diagnoses import MEND_THAT, Diagnosis, found_doubtful, found_ok, found_wrong
from oellm.doctor.environments import JobEnvironment
from oellm.doctor.probe_directory import FINDINGS, OUTSIDE, PROBE, ProbeFacts
from oellm.errors import ExitStatus, OellmError
from oellm.manifest.rows import Row
from oellm.runs import run_directory
from oellm.runs.provenance import accelerator_facts, describe_devices, own_image
from oellm.runs.run_directory import WORKER, Run
from oellm.worker import gpu_check
from oellm.worker.programs.containers import NodeCommands, Paths

# Free bytes of a node's temporary directory below which programs may fail.
_FEW_BYTES = 10**9
# Seconds for one start of a container.
_START_S = 180.0
_PROBE_SOURCE = "oellm/doctor/environment_probe.py"

_Found = Iterable[Diagnosis]


def main() -> int:
    """Look at this node, as the arguments --run_dir DIR --shard N say."""
    run = run_directory.load_run(sys.argv[sys.argv.index("--run_dir") + 1])
    shard = int(sys.argv[sys.argv.index("--shard") + 1])
    probe = NodeProbe(run, shard)
    target = run.path / FINDINGS / f"{shard}.json"
    findings: list[Diagnosis] = []
    for name, find in probe.list_checks():
        findings += (one._replace(check=f"job {one.check}") for one in _find(name, find))
        _write(target, findings, has_ended=False)
    _write(target, findings, has_ended=True)
    return ExitStatus.DONE


def _write(target: Path, findings: list[Diagnosis], *, has_ended: bool) -> None:
    content = {"findings": [one.to_json() for one in findings], "ended": has_ended}
    atomic.replace_file(target, json_codec.dumps(content))


def _find(name: str, find: Callable[[], _Found]) -> list[Diagnosis]:
    try:
        return list(find())
    except (OellmError, OSError) as error:
        return [found_wrong(name, str(error), MEND_THAT)]
    except Exception as error:
        return [found_wrong(name, f"internal error: {error!r}", MEND_THAT)]


class NodeProbe:
    """What one worker of the job looks at: in the environment of models, or outside of it."""

    def __init__(self, run: Run, shard: int) -> None:
        self._run = run
        self._shard = shard
        self._array = run.arrays[run.shards[shard].array]
        self._cluster = Cluster(run.content["cluster"], {})
        self._facts = ProbeFacts(**run.content[PROBE])

    def list_checks(self) -> list[tuple[str, Callable[[], _Found]]]:
        """Return the checks of this worker by their names."""
        common: list[tuple[str, Callable[[], _Found]]] = [
            ("paths", self._check_paths),
            ("temporary", self._check_temporary),
        ]
        if self._array.script == OUTSIDE:
            return [
                ("start", self._tell_unbuilt),
                ("clock", self._check_clock),
                *common,
                ("locks", self._check_locks),
                ("images", self._check_images),
                ("sandbox", self._check_sandbox),
            ]
        return [("start", self._check_start), ("gpu", self._check_gpus), *common]

    def _check_start(self) -> _Found:
        from oellm.doctor.environment_probe import describe_packages

        suite = self._array.eval_suite
        version = describe_packages([suite])[suite]
        place = "its container" if own_image() else sys.executable
        if version is None:
            text = f"{place} lacks {suite}"
            yield found_wrong("start", text, f"set images.{suite} or venvs.{suite}")
        else:
            python = ".".join(map(str, sys.version_info[:3]))
            yield found_ok("start", f"{place} starts: {suite} {version}, Python {python}")

    def _tell_unbuilt(self) -> _Found:
        """Tell which environments of models no worker of this job could start in."""
        for key, name in self._facts.unbuilt.items():
            if frameworks.is_resident(key):
                text = f"the image of {key} is not built yet: no start and no GPU was tried"
                yield environments.describe_unbuilt("start", text, name)

    def _check_gpus(self) -> _Found:
        row = Row({"model_path": "any/model"})
        count, allow_cpu = gpu_check.find_demand(self._run, self._shard, [row])
        if not count:
            yield found_ok("gpu", "its jobs get no GPUs")
            return
        obstacle = gpu_check.find_obstacle(count)
        obstacle = obstacle or gpu_check.find_obstacle_of_torch(count, may_touch=True)
        if not obstacle:
            yield found_ok("gpu", f"usable: {_describe_devices()}")
        elif allow_cpu:
            text = gpu_check.warn_of_cpu(count, obstacle)
            yield found_doubtful("gpu", text, "unset allow_cpu, so that no run computes on the CPU")
        else:
            halt = gpu_check.describe_unusable(count, obstacle)
            remedy = f"container_args (--nv, --rocm), gpu_gres and partition decide; {halt.hint}"
            yield found_wrong("gpu", halt.reason, remedy)

    def _check_paths(self) -> _Found:
        where = "node" if self._array.script == OUTSIDE else "worker"
        for key, mark in self._facts.marks.items():
            place = os.path.dirname(mark)
            if os.path.exists(mark):
                yield found_ok(f"{key} ({where})", f"{place} is the one of {self._facts.host}")
            else:
                text = f"{place} is not the one of {self._facts.host}"
                remedy = f"--set={key}=…, a directory of a file system that all nodes share"
                yield found_wrong(f"{key} ({where})", text, remedy)

    def _check_temporary(self) -> _Found:
        where = "node" if self._array.script == OUTSIDE else "worker"
        places = [tempfile.gettempdir()]
        stage = os.path.expandvars(self._cluster.text("stage_dir"))
        if stage and os.path.isdir(stage):
            places.append(stage)
        for place in dict.fromkeys(places):
            free = shutil.disk_usage(place).free
            text = f"{place}: {format_size(free)} free"
            name = f"temporary ({where})"
            if free < _FEW_BYTES:
                remedy = "--set=env.TMPDIR=…, or ask for a node with more room"
                yield found_doubtful(name, text, remedy)
            else:
                yield found_ok(name, text)

    def _check_clock(self) -> _Found:
        skew = directories.measure_skew(self._run.path) - self._facts.skew_s
        yield directories.describe_clock(skew, "clock", self._facts.host)

    def _check_locks(self) -> _Found:
        is_here = self._facts.host == socket.gethostname()
        for key, mark in self._facts.marks.items():
            if os.path.exists(mark):
                found = directories.try_lock_of_other_node(mark, is_here=is_here)
                yield found._replace(check=f"locks {key}")

    def _check_images(self) -> _Found:
        """Start the images of programs. The worker's own container has started already."""
        commands = NodeCommands(self._cluster, self._run.path)
        with tempfile.TemporaryDirectory(dir=self._run.path) as name:
            program = Path(name, "probe.py")
            with zipfile.ZipFile(self._run.path / WORKER) as archive:
                program.write_bytes(archive.read(_PROBE_SOURCE))
            for one in environments.find_environments(self._cluster):
                # The worker has started that itself.
                known = {self._own_environment(), *self._facts.unbuilt}
                if known.isdisjoint(one.keys):
                    yield from self._start(one, program, commands)

    def _own_environment(self) -> str:
        return self._run.arrays[0].eval_suite

    def _start(
        self, one: JobEnvironment, program: Path, commands: NodeCommands
    ) -> Iterator[Diagnosis]:
        image, python = one.launcher
        argv = [python, str(program), *one.suites]
        paths = Paths((str(program.parent),), (), ())
        variables = commands.variables(image, {})
        command = commands.command(image, argv, paths=paths, env=variables, gpu=True)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            remedy = "the file system of the image is slow, or hangs: ask the site"
            text = f"{image or python} did not start within {_START_S:.0f} s"
            yield found_wrong(one.check, text, remedy)
            return
        yield environments.describe_start(one, done)

    def _check_sandbox(self) -> _Found:
        found = environments.find_environments(self._cluster)
        there = [one for one in found if self._facts.unbuilt.keys().isdisjoint(one.keys)]
        if not there:
            return ()
        image = environments.find_sandbox_image(there)
        return machine_checks.check_sandbox(self._cluster, image)


def _describe_devices() -> str:
    try:
        return describe_devices(accelerator_facts())
    except ImportError:
        return gpu_check.describe_sight()


if __name__ == "__main__":
    sys.exit(main())
