"""One start of a program: it runs in directories of its own, and leaves an output or a reason."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import require_launcher
from oellm.core.display import utc_now
from oellm.errors import MachineError
from oellm.frameworks.interface import NotPermittedError
from oellm.runs.result_record import Facts
from oellm.runs.stages.stage_store import StageOutput, StageStore
from oellm.sandbox.layers import find_layers
from oellm.worker.programs.containers import NodeCommands
from oellm.worker.programs.private_directory import PrivateDirectory
from oellm.worker.programs.program_needs import ProgramNeeds
from oellm.worker.programs.program_output import ProgramOutput
from oellm.worker.programs.stage_batch import StageBatch
from oellm.worker.programs.starts import (
    PreparedStart,
    Resources,
    Start,
    start_contained,
    start_plain,
)

# The last line of a traceback of Python.
_ERROR = re.compile(r"([a-z_]\w*\.)*[A-Z]\w*(Error|Exception|Interrupt|Exit)(:|$)")
# The outputs of the stage before, by key.
Inputs = Mapping[str, StageOutput]
# Runs an action to its end; returns its status and its output.
Run = Callable[[Callable[[], int]], tuple[int, ProgramOutput]]


# How a container runtime ends, and what it prints, if it cannot start a container.
_NO_CONTAINER, _FATAL = 255, "FATAL:"


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
    """A program that ended well.

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


class ProgramStarter:
    """Starts programs on this node, in the environments that a cluster's settings name.

    `directory` is the run's, or what stands for it; `unsafe_execution` permits that code which a
    model has written runs without a container.

    Attributes:
        needs: Finds what they need of the shared cache.
    """

    def __init__(
        self,
        cluster: Cluster,
        stages: StageStore,
        directory: Path,
        *,
        unsafe_execution: bool = False,
    ) -> None:
        self.needs = ProgramNeeds(cluster)
        self._cluster = cluster
        self._stages = stages
        self._unsafe_execution = unsafe_execution
        self._commands = NodeCommands(cluster, directory)

    @contextlib.contextmanager
    def attempt(
        self, batch: StageBatch, inputs: Inputs, resources: Resources, *, run: Run
    ) -> Iterator[EndedProgram]:
        """Run the program of a batch; its directories exist until the context ends.

        Raises ProgramFailedError, OSError, MachineError if the machine lacks the environment or the
        sandbox of the stage, and what `run` and the adapter raise.
        """
        first = batch.first
        launcher = require_launcher(self._cluster, first.environment)
        output = self._stages.new_attempt(first.key or first.subject["eval_id"], batch.name)
        try:
            private = PrivateDirectory()
            try:
                prepared = PreparedStart(
                    batch,
                    inputs,
                    resources,
                    launcher=launcher,
                    output=output,
                    private=private,
                    files=self.needs.find_files(batch),
                    hf_home=self.needs.hf_home,
                )
                yield _carry_out(self._start(prepared), prepared, run=run)
            finally:
                private.remove()
        finally:
            shutil.rmtree(output, ignore_errors=True)
            with contextlib.suppress(OSError):
                output.parent.rmdir()

    def _start(self, prepared: PreparedStart) -> Start:
        """Return how a program is started; raises MachineError without the sandbox it needs."""
        if not prepared.batch.first.stage.runs_model_code:
            return start_plain(prepared, self._commands)
        subjects = prepared.batch.subjects
        confirmed = all(row.value("confirm_run_unsafe_code") for row in subjects)
        permits = self._unsafe_execution or confirmed
        image = prepared.launcher.image
        if image is None and not permits:
            # The rows of the other frameworks, and those that permit it, are none the worse.
            stage = prepared.batch.name
            raise NotPermittedError(
                f"the stage {stage} runs code that the model has written; it needs a sandbox: set "
                f"images.{prepared.batch.first.environment}, or permit it without one with "
                "--unsafe_execution"
            )
        layers = find_layers(self._cluster, image, unsafe_execution=permits)
        if image is not None and not layers.container:
            # The permission is for stages without an image; this one's does not start here.
            raise MachineError(f"the sandbox of {image} cannot be made: {layers.missing}")
        if layers.container or layers.namespaces:
            return start_contained(prepared, self._commands, self._cluster, layers=layers)
        return start_plain(prepared, self._commands)._replace(sandbox=str(layers))


def _carry_out(start: Start, prepared: PreparedStart, *, run: Run) -> EndedProgram:
    """Run a program to its end.

    Raises ProgramFailedError if it did not end with status 0, MachineError without its container.
    """
    started, clock = utc_now(), time.perf_counter()
    status, printed = run(start.action)
    seconds = time.perf_counter() - clock
    if status:
        lines = printed.last_lines
        if (
            # What a sandbox prints may be what the model has written.
            not start.sandbox
            and prepared.launcher.image
            and status == _NO_CONTAINER
            and lines[-1:]
            and _FATAL in lines[-1]
        ):
            raise MachineError(f"the container does not start: {lines[-1]}")
        is_contained = bool(start.sandbox)
        raise ProgramFailedError(_describe_end(status, lines), lines, is_contained=is_contained)
    return EndedProgram(
        prepared.output,
        start.facts,
        seconds,
        rows=len(prepared.batch.subjects),
        started=started,
        sandbox=start.find_sandbox(),
    )


def _describe_end(status: int, lines: list[str]) -> str:
    how = f"the program ended with status {status}"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else ""
        how = f"the program was killed by signal {-status} {name}".rstrip()
    # What cleans up after an error often prints, too.
    errors = [line for line in lines if _ERROR.match(line)]
    line = (errors or lines)[-1:]
    return f"{how}: {line[0]}" if line else f"{how} and has printed nothing"
