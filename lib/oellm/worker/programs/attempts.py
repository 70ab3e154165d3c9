"""One start of a program: its directories, its command, what it did, and what it left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import Launcher, require_launcher
from oellm.core.display import utc_now
from oellm.core.processes.process_trees import run_program
from oellm.core.redaction import redact
from oellm.frameworks.interface import NotPermittedError
from oellm.frameworks.program import NeededDataSet, NeededFile, Place
from oellm.hub import cached_commits
from oellm.hub.needed_files import needed_path
from oellm.manifest.rows import Row
from oellm.models.staging import Source
from oellm.runs.contents import Contents
from oellm.runs.result_record import Facts
from oellm.runs.stages.stage_store import StageOutput, StageStore
from oellm.worker.programs.containers import NodeCommands, Paths
from oellm.worker.programs.private_directory import PrivateDirectory
from oellm.worker.programs.program_output import ProgramOutput
from oellm.worker.programs.stage_batch import DueStage, StageBatch


class ProgramFailedError(Exception):
    """A program ended with another status than 0.

    Attributes:
        lines: The last lines that it printed.
        is_contained: Whether it ran in a sandbox, whose disk is not the node's.
    """

    def __init__(self, reason: str, lines: list[str], *, is_contained: bool = False) -> None:
        super().__init__(reason)
        self.lines = lines
        self.is_contained = is_contained


@dataclass(frozen=True)
class EndedProgram:
    """A start of a program that ended well.

    Attributes:
        output: The directory of what it wrote.
        facts: How it was started, for the provenance.
        seconds: The seconds that it ran.
        rows: The number of rows that it computed.
        started: When it started (UTC, ISO 8601).
        sandbox: What contained the code of the model that it ran; empty if it ran none.
    """

    output: Path
    facts: Facts
    seconds: float
    rows: int
    started: str
    sandbox: str = ""


class Resources(NamedTuple):
    """What a program gets of the node.

    Attributes:
        gpus: GPUs; 0 for none.
        source: Where the files of the model are; None if the program does not need them.
        bootstrap_iters: Draws for bootstrapped standard errors.
    """

    gpus: int
    source: Source | None
    bootstrap_iters: int


# The outputs of the stage before, by key.
Inputs = Mapping[str, StageOutput]
# Runs an action to its end; returns its status and its output.
Run = Callable[[Callable[[], int]], tuple[int, ProgramOutput]]


class ProgramStarter:
    """Starts programs on this node, in the environments that a cluster's settings name.

    `directory` is the run's, or what stands for it; `unsafe_execution` permits that code which a
    model has written runs without a sandbox.
    """

    def __init__(
        self,
        cluster: Cluster,
        stages: StageStore,
        directory: Path,
        *,
        unsafe_execution: bool = False,
    ) -> None:
        self._cluster = cluster
        self._stages = stages
        self._unsafe_execution = unsafe_execution
        self._commands = NodeCommands(cluster, directory)

    @contextlib.contextmanager
    def attempt(
        self, batch: StageBatch, inputs: Inputs, resources: Resources, *, run: Run
    ) -> Iterator[EndedProgram]:
        """Run the program of a batch; its directories exist until the context ends.

        Raises ProgramFailedError, OSError, MachineError if the environment of the stage does not
        exist, and what `run` and the adapter raise.
        """
        first = batch.first
        if first.stage.runs_model_code and not self._is_permitted(batch):
            raise NotPermittedError(
                f"the stage {batch.name} runs code that the model has written; it needs a sandbox, "
                "or --unsafe_execution"
            )
        output = self._stages.new_attempt(first.key or first.subject["eval_id"], batch.name)
        try:
            private = PrivateDirectory()
            try:
                start = self._start_plain(batch, inputs, resources, output=output, private=private)
                yield _carry_out(start, output, rows=len(batch.subjects), run=run)
            finally:
                private.remove()
        finally:
            shutil.rmtree(output, ignore_errors=True)
            with contextlib.suppress(OSError):
                output.parent.rmdir()

    def _is_permitted(self, batch: StageBatch) -> bool:
        """Return whether a batch may run a model's code without a sandbox."""
        permits = (bool(row.value("confirm_run_unsafe_code")) for row in batch.subjects)
        return self._unsafe_execution or all(permits)

    def _start_plain(
        self,
        batch: StageBatch,
        inputs: Inputs,
        resources: Resources,
        *,
        output: Path,
        private: PrivateDirectory,
    ) -> _Start:
        """Return how a program is started that is trusted as the framework is."""
        stage, source = batch.first.stage, resources.source
        launcher = require_launcher(self._cluster, batch.first.environment)
        place = Place(
            python=launcher.python,
            output=str(output),
            private=str(private.path),
            own=str(private.files),
            model=private.link_model(source.path) if source is not None else "",
            inputs={key: str(found.path) for key, found in inputs.items()},
            files={name: str(path) for name, path in self._needed_files(batch).items()},
            gpus=resources.gpus,
            cpus=len(os.sched_getaffinity(0)),
            bootstrap_iters=resources.bootstrap_iters,
        )
        command = batch.first.program.command(batch.subjects, stage, place)
        private.write_files(command.files)
        own = self._commands.variables(launcher.image, {**private.variables(), **command.env})
        argv = self._commands.command(
            launcher.image,
            command.argv,
            paths=Paths(
                writable=(str(output), str(private.path)),
                read_only=(
                    *([os.path.abspath(source.path)] if source is not None else []),
                    *place.inputs.values(),
                    *command.reads,
                ),
                rows=tuple(each.row for each in batch.staged),
            ),
            env=own,
            gpu=stage.uses_gpu,
        )
        surroundings = self._commands.surroundings(gpu=stage.uses_gpu)
        env = surroundings if launcher.image else {**surroundings, **own}
        action = partial(run_program, argv, env=env, directory=str(output))
        return _Start(action, _describe(launcher, command.argv))

    def cached_data(self, staged: DueStage, expected: str) -> Contents:
        """Return the commits of the data sets that a row's program would load from the cache.

        `expected` are those with which the row was prepared, as in the column dataset_revision.
        """
        names = [n.name for n in staged.program.needs(staged.row) if isinstance(n, NeededDataSet)]
        found = cached_commits.find_commits(self._hf_home, names, expected)
        return Contents(data=" ".join(found))

    @property
    def _hf_home(self) -> str:
        home = self._cluster.text("hf_home") or os.environ.get("HF_HOME", "")
        return home or os.path.expanduser("~/.cache/huggingface")

    def _needed_files(self, batch: StageBatch) -> dict[str, Path]:
        """Return the files that the rows need, by name; raises FileNotFoundError."""
        environ = {"HF_HOME": self._hf_home}
        found: dict[str, Path] = {}
        for row in batch.subjects:
            for need in batch.first.program.needs(row):
                if isinstance(need, NeededFile):
                    found[need.name] = needed_path(environ, need.name, need.sha256)
            found |= own_problem_files(row)
        for name, path in found.items():
            if not path.is_file():
                raise FileNotFoundError(f"{name} is not in the cache: {path}; run oe-fetch")
        return found


class _Start(NamedTuple):
    """How a program is started: what does it, and facts about it."""

    action: Callable[[], int]
    facts: Facts
    sandbox: str = ""


def own_problem_files(row: Row) -> dict[str, Path]:
    """Return the user's own problem files of a row's task, by name."""
    framework = frameworks.create_program_framework(row.typed.eval_suite)
    directory = row.typed.include_path
    if framework is None or not directory:
        return {}
    paths = {name: Path(directory, name) for name in framework.problem_files(row.typed.task_path)}
    return {name: path for name, path in paths.items() if path.is_file()}


def _carry_out(start: _Start, output: Path, *, rows: int, run: Run) -> EndedProgram:
    """Run a program to its end; raises ProgramFailedError if it did not end with status 0."""
    started, clock = utc_now(), time.perf_counter()
    status, printed = run(start.action)
    seconds = time.perf_counter() - clock
    if status:
        lines = printed.last_lines
        is_contained = bool(start.sandbox)
        raise ProgramFailedError(_describe_end(status, lines), lines, is_contained=is_contained)
    return EndedProgram(
        output, start.facts, seconds, rows=rows, started=started, sandbox=start.sandbox
    )


def _describe_end(status: int, lines: list[str]) -> str:
    how = f"the program ended with status {status}"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else ""
        how = f"the program was killed by signal {-status} {name}".rstrip()
    return f"{how}: {lines[-1]}" if lines else f"{how} and has printed nothing"


def _describe(launcher: Launcher, argv: Iterable[str]) -> Facts:
    return {
        "command": [redact(word) for word in argv],
        "image": str(launcher.image or ""),
        "python": launcher.python,
    }
