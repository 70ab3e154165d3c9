"""What becomes of a program's output: a first stage's output, results, or failures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from oellm.core import display
from oellm.frameworks.interface import Evaluation
from oellm.manifest.rows import Row
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment
from oellm.runs.result_record import Facts, RowTiming
from oellm.runs.result_store import ResultStore
from oellm.runs.stages.stage_record import StageRecord
from oellm.runs.stages.stage_store import StageOutput, StageStore
from oellm.worker.programs.attempts import EndedProgram
from oellm.worker.programs.stage_batch import DueStage, StageBatch
from oellm.worker.row_record import Ended, Job, RowRecorder


@dataclasses.dataclass(frozen=True)
class Origin:
    """What all outputs of a worker's programs have in common.

    Attributes:
        provenance: The part of the provenance that goes into every result.
        accelerator: The GPUs of the worker, as the provenance has them.
        hardware: The same for people.
    """

    provenance: Facts
    accelerator: Facts
    hardware: str


class ProgramRecorder:
    """Writes the outputs of first stages, and results."""

    def __init__(self, store: ResultStore | None, stages: StageStore, origin: Origin) -> None:
        self._store = store
        self._stages = stages
        self._origin = origin

    def place_outputs(
        self, batch: StageBatch, attempt: EndedProgram, contents: Mapping[str, Contents]
    ) -> None:
        """Store the output of a first stage under each key in `contents`.

        They say what it was computed from. Raises OSError if it cannot be written, and
        InvalidStageError if a file has the name of our record.
        """
        placed: StageOutput | None = None
        for subject in batch.subjects:
            key = subject["eval_id"]
            if key not in contents:
                continue
            record = self._describe(batch, subject, attempt, contents=contents[key])
            if placed is None:
                placed = self._stages.place(attempt.output, record)
            else:
                self._stages.copy(placed, record)

    def write_result(
        self, staged: DueStage, job: Job, attempt: EndedProgram, *, given: StageOutput | None
    ) -> Ended:
        """Write the result of a row whose last stage has ended.

        `given` is the output of its first stage, if it has two. Raises what the adapter raises,
        and what RowRecorder.write_result does.
        """
        outputs = {staged.stage.name: attempt.output}
        if given is not None:
            outputs[given.record.stage] = given.path
        staged.program.check_output(staged.row, staged.stage, attempt.output)
        evaluation = staged.program.evaluation(staged.row, outputs)
        recorder = RowRecorder(job, self._store, attempt.started)
        timing = recorder.timing
        timing.add(evaluation.timing)
        if given is not None:
            before = given.record.timing
            timing.generate_s, timing.model_load_s = before.generate_s, before.model_load_s
        timing.evaluate_s = attempt.seconds / attempt.rows
        timing.row_s = timing.evaluate_s + (timing.generate_s or 0.0)
        timing.wait_s = 0.0
        return recorder.write_result(self._complete(evaluation, staged, attempt, given=given))

    def _complete(
        self,
        evaluation: Evaluation,
        staged: DueStage,
        attempt: EndedProgram,
        *,
        given: StageOutput | None,
    ) -> Evaluation:
        """Return an evaluation with what the worker knows: provenance of stages, hardware."""
        before = given.record if given is not None else None
        environment = evaluation.environment
        if before is not None:
            known = before.environment
            environment = Environment._make(
                ours or theirs for ours, theirs in zip(environment, known, strict=True)
            )
        if not environment.hardware and staged.stage.uses_gpu:
            environment = environment._replace(hardware=self._origin.hardware)
        environment = environment._replace(sandbox=attempt.sandbox)
        provenance = {
            "program": attempt.facts,
            "accelerator": self._accelerator(before),
            **({"stages": {before.stage: before.provenance}} if before is not None else {}),
            **evaluation.provenance,
        }
        provenance.setdefault("versions", {})
        return dataclasses.replace(evaluation, environment=environment, provenance=provenance)

    def _accelerator(self, before: StageRecord | None) -> Facts:
        """Return the GPUs that the model was on."""
        found = before.provenance.get("accelerator") if before is not None else None
        return found if isinstance(found, dict) else self._origin.accelerator

    def _describe(
        self, batch: StageBatch, subject: Row, attempt: EndedProgram, *, contents: Contents
    ) -> StageRecord:
        timing = RowTiming(
            started=attempt.started,
            finished=display.utc_now(),
            generate_s=attempt.seconds / attempt.rows,
        )
        provenance = {
            **self._origin.provenance,
            "program": attempt.facts,
            "accelerator": self._origin.accelerator,
        }
        return StageRecord(
            key=subject["eval_id"],
            stage=batch.name,
            row=dict(subject.cells),
            contents=contents,
            environment=Environment(hardware=self._origin.hardware),
            provenance=provenance,
            timing=timing,
            files={},
        )


def find_invalid(batch: StageBatch, output: Path) -> dict[str, Exception | None]:
    """Return for each subject of a batch, by its eval_id, what is wrong with the output."""
    found: dict[str, Exception | None] = {}
    for subject in batch.subjects:
        found[subject["eval_id"]] = None
        try:
            batch.first.program.check_output(subject, batch.first.stage, output)
        # An adapter reads what a program wrote, and may raise anything.
        except Exception as error:
            found[subject["eval_id"]] = error
    return found
