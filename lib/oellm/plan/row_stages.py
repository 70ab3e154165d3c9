"""The stages of rows as a plan needs them: in which array each stage is, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import find_launcher
from oellm.frameworks.interface import GENERATE_UNTIL, count_documents
from oellm.frameworks.program import Program, generation_arguments
from oellm.frameworks.stages import RowStage, environment_key
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.plan import guesses
from oellm.plan.program_times import START_S, ProgramTimes

# A guess of a second stage, besides its start: seconds for each program that is run, on one core.
# A program that hangs takes longer, most take less.
_SAMPLE_S = 2.0
# The argument of generation that says how many answers a problem gets.
_SAMPLES = "n_samples"


class Needs(NamedTuple):
    """What a worker without a GPU asks of its node: CPU cores, and memory in GiB."""

    cpus: int = 1
    memory_gib: int = 1

    def joined(self, other: Needs) -> Needs:
        """Return what suffices for both."""
        return Needs(max(self.cpus, other.cpus), max(self.memory_gib, other.memory_gib))


class WorkKey(NamedTuple):
    """What the rows share that one worker may compute together.

    Attributes:
        model: What their model is loaded by.
        is_resident: Whether the worker itself computes their first stage, in the container.
        uses_gpu: Whether that stage needs the GPUs of the rows.
    """

    model: ModelKey
    is_resident: bool = True
    uses_gpu: bool = True

    @property
    def gpus(self) -> int:
        """The GPUs of a worker."""
        return self.model.tp if self.uses_gpu else 0


class SecondStage(NamedTuple):
    """The second stage of a row: its seconds on its cores, their basis, and what it needs."""

    seconds: float
    basis: str
    needs: Needs


class StagedRow(NamedTuple):
    """The stages of a row.

    Attributes:
        key: What it shares with other rows of one load.
        generation: The KEY of its first stage's output, which other rows may share; empty for a
            row with one stage.
        sized: The row, with the numbers by which its first stage is estimated.
        is_counted: Whether the numbers of a program's row are known, and no guess.
        first_s: The measured seconds of its first stage; None if they must be estimated.
        loads: Whether it starts a program, which loads the model.
        needs: What its first stage needs if it uses no GPU.
        second: Its second stage; None if it has one stage.
    """

    key: WorkKey
    generation: str
    sized: Row
    is_counted: bool = True
    first_s: float | None = None
    loads: bool = False
    needs: Needs = Needs()
    second: SecondStage | None = None


class RowStages:
    """Finds the stages of rows, and checks them.

    Attributes:
        environments: The keys of the settings `images` and `venvs` that the rows need.
    """

    def __init__(self, cluster: Cluster, times: ProgramTimes) -> None:
        self._cluster = cluster
        self._times = times
        self.environments: dict[str, None] = {}
        self._programs: dict[str, Program | None] = {}
        # The first row of each load, and by framework, whether the next is computed with it.
        self._firsts: dict[WorkKey, Row] = {}
        self._in_batches: dict[str, bool] = {}

    def find(self, row: Row, key: ModelKey) -> StagedRow:
        """Return the stages of a row, whose model is loaded by `key`.

        Raises InputError if its framework cannot evaluate it as it is, or if code that the model
        writes would run without a container and nobody permits that.
        """
        suite = key.eval_suite
        if suite not in self._programs:
            self._programs[suite] = frameworks.create_program(suite)
            self.environments[suite] = None
        program = self._programs[suite]
        if program is None:
            return StagedRow(WorkKey(key), "", row)
        return self._find_of(program, row, key)

    def _find_of(self, program: Program, row: Row, key: ModelKey) -> StagedRow:
        whole = frameworks.create_program_framework(key.eval_suite)
        if whole is not None:
            if unknown := whole.catalogue().find_unknown(row.typed.task_path):
                raise row.error("task_path", f"{key.eval_suite} has {unknown}")
            whole.check(row)
        first, *later = program.stages(row)
        if first.is_resident and not later:
            return StagedRow(WorkKey(key), "", row)
        self._require_contained(row, [first, *later])
        work = WorkKey(key, is_resident=first.is_resident, uses_gpu=first.uses_gpu)
        samples = 1
        if whole is not None:
            given = generation_arguments(row, whole.settings(row.typed.task_path))
            samples = _positive(given.get(_SAMPLES))
        problems, is_counted = self._count_problems(row)
        answers = problems * samples
        sized, first_s = row, None
        if not first.is_resident:
            sized = row.with_cells(request_types=f"{GENERATE_UNTIL}={answers}")
            first_s = self._times.first(row, answers)
        return StagedRow(
            work,
            frameworks.generation_key(row) if later else "",
            sized,
            is_counted=is_counted,
            first_s=first_s,
            loads=self._loads(program, row, key=work, stage=first),
            needs=Needs(first.cpus, first.memory_gib),
            second=self._estimate_second(row, later[0], answers) if later else None,
        )

    def _estimate_second(self, row: Row, stage: RowStage, answers: int) -> SecondStage:
        needs = Needs(stage.cpus, stage.memory_gib)
        measured = self._times.second(row, answers)
        if measured is not None:
            return SecondStage(measured, "measured", needs)
        return SecondStage(START_S + _SAMPLE_S * answers / needs.cpus, "guessed", needs)

    def _count_problems(self, row: Row) -> tuple[int, bool]:
        """Return the documents of a row, and whether they are known.

        Its columns tell them, else its catalogue; else they are guessed.
        """
        typed = row.typed
        if typed.n_docs is not None:
            return typed.n_docs, True
        whole = frameworks.create_program_framework(typed.eval_suite)
        if whole is not None:
            task = whole.catalogue().tasks.get(typed.task_path)
            if task is not None and task.n_docs is not None:
                return count_documents(task.n_docs, typed.limit), True
        is_number = typed.limit is not None and typed.limit >= 1
        return guesses.assume_documents(typed.limit), is_number

    def _loads(self, program: Program, row: Row, key: WorkKey, stage: RowStage) -> bool:
        """Return whether a start of the program computes this row without an earlier one."""
        if stage.is_resident or (first := self._firsts.setdefault(key, row)) is row:
            return not stage.is_resident
        suite = key.model.eval_suite
        if suite not in self._in_batches:
            self._in_batches[suite] = len(program.batches([first, row], stage)) == 1
        return not self._in_batches[suite]

    def _require_contained(self, row: Row, stages: Sequence[RowStage]) -> None:
        """Raise InputError if a stage would run the model's code in no container, unpermitted."""
        suite = row.typed.eval_suite
        for number, stage in enumerate(stages):
            environment = environment_key(suite, stage, is_first=number == 0)
            self.environments[environment] = None
            is_permitted = self._cluster.switch("unsafe_execution") or row.value(
                "confirm_run_unsafe_code"
            )
            if not stage.runs_model_code or is_permitted:
                continue
            if find_launcher(self._cluster, environment).image is None:
                raise row.error(
                    "task_path",
                    f"{row.typed.task_path} runs code that the model writes, which needs a "
                    f"container: set images.{environment}; --unsafe_execution runs it without one, "
                    "with all your rights",
                )


def _positive(value: object) -> int:
    """Return the number that a cell gives; 1 if it is none."""
    text = str(value)
    return max(1, int(text)) if text.isdecimal() and len(text) <= len(str(10**6)) else 1
