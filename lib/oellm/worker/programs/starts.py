"""How programs are started: those that are trusted as the framework is, and those in a sandbox."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from oellm.clusters.binds import list_link_targets
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import NLTK, Launcher
from oellm.core.processes.process_trees import run_program
from oellm.core.redaction import redact
from oellm.errors import OellmError
from oellm.frameworks.program import Command, Place
from oellm.models.staging import Source
from oellm.runs.result_record import Facts
from oellm.runs.stages.stage_store import StageOutput
from oellm.sandbox.contained import OUTPUT, SCRATCH, Contained, Layers, Limits, SampleLimits
from oellm.sandbox.running import run_contained
from oellm.worker.programs import private_cache
from oellm.worker.programs.containers import NodeCommands, Paths
from oellm.worker.programs.private_directory import PrivateDirectory
from oellm.worker.programs.program_needs import list_needs
from oellm.worker.programs.stage_batch import StageBatch

# Where a sandbox has what a program reads.
_OWN, _STAGES, _NEEDED = "/oellm/own", "/oellm/stages", "/oellm/needed"
_LINKER = "link-cache.py"
_CACHE = {"HF_HOME": private_cache.OWN, "NLTK_DATA": f"{private_cache.OWN}/{NLTK}"}
# A program in a sandbox without a limit of its own ends with its job. In seconds.
_NEVER = 30.0 * 86400


class Resources(NamedTuple):
    """What a program gets of the node.

    Attributes:
        gpus: GPUs; 0 for none.
        source: Where the files of the model are; None if the program does not need them.
        bootstrap_iters: Draws for bootstrapped standard errors.
        limit_s: The seconds that it may take.
    """

    gpus: int
    source: Source | None
    bootstrap_iters: int
    limit_s: float


@dataclass(frozen=True)
class PreparedStart:
    """What is there before a program is started.

    Attributes:
        batch: What it computes.
        inputs: The outputs of the stage before, by key.
        resources: What it gets of the node.
        launcher: The Python and the image that it runs in.
        output: The directory of its output.
        private: Its private directory.
        files: The files that the rows need, by name.
        hf_home: The shared cache.
    """

    batch: StageBatch
    inputs: Mapping[str, StageOutput]
    resources: Resources
    launcher: Launcher
    output: Path
    private: PrivateDirectory
    files: Mapping[str, Path]
    hf_home: str

    def command(self, place: Place) -> Command:
        """Return the command of the program, whose own files are written; raises OSError."""
        first = self.batch.first
        command = first.program.command(self.batch.subjects, first.stage, place)
        self.private.write_files(command.files)
        return command


class Start(NamedTuple):
    """How a program is started.

    Attributes:
        action: What runs it in a process of its own.
        facts: Facts about it for the provenance.
        sandbox: What contains it; empty if nothing does.
        unguarded: What contains it if the guard has met no sample, and the file that then exists.
    """

    action: Callable[[], int]
    facts: Facts
    sandbox: str = ""
    unguarded: tuple[str, Path] | None = None

    def find_sandbox(self) -> str:
        """Return what has contained the program, which has ended."""
        if self.unguarded is not None and self.unguarded[1].exists():
            return self.unguarded[0]
        return self.sandbox


def start_plain(prepared: PreparedStart, commands: NodeCommands) -> Start:
    """Return how a program is started that is trusted as the framework is."""
    batch, private, output = prepared.batch, prepared.private, str(prepared.output)
    source, image = prepared.resources.source, prepared.launcher.image
    place = Place(
        python=prepared.launcher.python,
        output=output,
        private=str(private.path),
        own=str(private.files),
        model=private.link_model(source.path) if source is not None else "",
        inputs={key: str(found.path) for key, found in prepared.inputs.items()},
        files={name: str(path) for name, path in prepared.files.items()},
        gpus=prepared.resources.gpus,
        cpus=len(os.sched_getaffinity(0)),
        bootstrap_iters=prepared.resources.bootstrap_iters,
    )
    command = prepared.command(place)
    model = [os.path.abspath(source.path)] if source is not None else []
    variables = commands.variables(image, {**private.variables(), **command.env})
    argv = commands.command(
        image,
        command.argv,
        paths=Paths(
            writable=(output, str(private.path)),
            read_only=(*model, *place.inputs.values(), *command.reads),
            rows=tuple(each.row for each in batch.staged),
        ),
        env=variables,
        gpu=batch.first.stage.uses_gpu,
    )
    surroundings = commands.surroundings(gpu=batch.first.stage.uses_gpu)
    env = surroundings if image else {**surroundings, **variables}
    return Start(
        partial(run_program, argv, env=env, directory=output),
        _describe(prepared.launcher, command.argv),
    )


def start_contained(
    prepared: PreparedStart, commands: NodeCommands, cluster: Cluster, *, layers: Layers
) -> Start:
    """Return how a program is started in a sandbox, because it runs what a model has written."""
    batch, private, launcher = prepared.batch, prepared.private, prepared.launcher
    place = Place(
        python=launcher.python,
        output=OUTPUT,
        private=SCRATCH,
        own=_OWN,
        model="",
        inputs={key: f"{_STAGES}/{key}" for key in prepared.inputs},
        files={name: f"{_NEEDED}/{name}" for name in prepared.files},
        cpus=len(os.sched_getaffinity(0)),
        bootstrap_iters=prepared.resources.bootstrap_iters,
    )
    command = prepared.command(place)
    private.write_files({_LINKER: private_cache.LINKER})
    link = (launcher.python, f"{_OWN}/{_LINKER}", private_cache.SHARED, private_cache.OWN)
    shared = private_cache.find_parts(prepared.hf_home, list_needs(batch))
    contained = Contained(
        argv=(*link, *command.argv),
        image=launcher.image,
        inputs={
            private.files: _OWN,
            **{found.path: f"{_STAGES}/{key}" for key, found in prepared.inputs.items()},
            **{path: place.files[name] for name, path in prepared.files.items()},
            **shared,
            **{Path(path): path for path in _with_link_targets(command.reads)},
        },
        output=prepared.output,
        env=commands.contained_variables(launcher.image, {**_CACHE, **command.env}),
        limits=_limits(prepared, command),
        runtime=cluster.text("container_runtime") or "auto",
        container_args=tuple(cluster.items("container_args")),
        needs_samples=command.has_samples,
    )
    facts = _describe(launcher, command.argv)
    # The program does not see this directory.
    note = private.path / "unguarded"
    return Start(
        partial(_contain, contained, layers, note=note),
        facts,
        sandbox=str(layers),
        unguarded=(str(layers._replace(guard=False)), note),
    )


def _with_link_targets(paths: Iterable[str]) -> Iterator[str]:
    """Yield paths, and what the links in directories among them lead to."""
    for path in paths:
        yield path
        yield from list_link_targets(path)


def _contain(contained: Contained, layers: Layers, note: Path) -> int:
    """Run a program in a sandbox, in a process of its own; return its exit status.

    `note` is a file that is made if the guard has met no sample.
    """
    # What this process has made is removed if it is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        end = run_contained(contained, layers, 2)
    # What the sandbox's own process sends is damaged if that has ended too early.
    except (OellmError, OSError, ValueError, TypeError, LookupError) as error:
        sys.stderr.write(f"the sandbox cannot run the program: {error}\n")
        return 1
    for name, reason in end.refused:
        sys.stderr.write(f"{name}: not taken out of the sandbox: {reason}\n")
    if not end.samples:
        note.touch()
    if end.status >= 0:
        return end.status
    sys.stderr.write(f"the sandbox: {end.reason}\n")
    return 1


def _limits(prepared: PreparedStart, command: Command) -> Limits:
    """Return the limits of a program in a sandbox."""
    defaults = Limits(seconds=min(prepared.resources.limit_s, _NEVER))
    wanted = prepared.batch.first.stage.memory_gib << 30
    return defaults._replace(
        memory_bytes=max(wanted, defaults.memory_bytes),
        stack_bytes=(command.stack_mib or 0) << 20,
        sample=SampleLimits(address_space_bytes=(command.address_space_gib or 0) << 30),
    )


def _describe(launcher: Launcher, argv: Iterable[str]) -> Facts:
    return {
        "command": [redact(word) for word in argv],
        "image": str(launcher.image or ""),
        "python": launcher.python,
    }
