"""The outputs of first stages that are there: which of them still fit, and which are set aside."""

from __future__ import annotations

from collections.abc import Callable

from oellm.core.log import Log
from oellm.frameworks.stages import GENERATE
from oellm.runs.contents import Contents, find_changes
from oellm.runs.stages.stage_store import InvalidStageError, StageOutput, StageStore
from oellm.worker import halts
from oellm.worker.programs.stage_batch import DueStage
from oellm.worker.row_contents import ContentsChangedError, RowContents


class UnreadableError(Exception):
    """An output that may be valid cannot be read, or not now; the text says which file, and why."""


class KeptOutputs:
    """Finds the output of a row's first stage; sets aside what is damaged or out of date."""

    def __init__(self, stages: StageStore, contents: RowContents, log: Log) -> None:
        self._stages = stages
        self._contents = contents
        self._log = log

    def find(self, staged: DueStage) -> StageOutput | None:
        """Return the output that a first stage would compute now; None if there is none.

        Raises UnreadableError.
        """
        return self._fitting(staged, self._current)[0]

    def require(self, staged: DueStage) -> StageOutput:
        """Return the output of the first stage that a second stage reads.

        Raises InvalidStageError, with the reason, if there is none that fits, and UnreadableError.
        The model need not be there any more.
        """
        output, reason = self._fitting(staged, lambda each: self._contents.expect(each.row))
        if output is None:
            raise InvalidStageError(reason or f"it has no output of the stage {GENERATE}")
        return output

    def _fitting(
        self, staged: DueStage, find_now: Callable[[DueStage], Contents]
    ) -> tuple[StageOutput | None, str]:
        """Return the output, or None and why it does not fit what `find_now` returns."""
        try:
            return self._find_fitting(staged, find_now)
        except OSError as error:
            raise UnreadableError(halts.describe_storage(error)) from error

    def _find_fitting(
        self, staged: DueStage, find_now: Callable[[DueStage], Contents]
    ) -> tuple[StageOutput | None, str]:
        key = staged.key
        try:
            output = self._stages.read(key, GENERATE)
            output.require_content()
        except InvalidStageError:
            if (aside := self._stages.set_invalid_aside(key, GENERATE)) is None:
                return None, ""
            reason = f"output of the stage {GENERATE} is not valid; set aside: {aside}"
        else:
            generation = staged.generation
            now = self._contents.as_task_of(find_now(staged), staged.row, generation)
            used = self._contents.without_kept(output.record.contents, generation)
            changes = find_changes(used, now, generation["task_path"])
            if not changes:
                return output, ""
            aside = self._stages.set_stale_aside(output)
            reason = f"{', '.join(changes)}; earlier output of the stage {GENERATE} set aside"
            reason += f": {aside}" if aside is not None else ""
        self._log(f"{staged.row['model_path']}: {reason}")
        return None, reason

    def _current(self, staged: DueStage) -> Contents:
        """Return what a row would be evaluated from, as far as it is known."""
        expected = self._contents.expect(staged.row)
        try:
            return expected.filled(self._contents.require_unchanged(staged.row))
        except ContentsChangedError:
            # The row fails when it begins, and says so.
            return expected
