"""What the adapters of programs share that generate in one stage and evaluate in a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oellm.frameworks import row_settings
from oellm.frameworks.catalogue import Catalogued
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.manifest.rows import Row

# What programs with a file of problems cannot use; the settings of bigcode are others.
_REFUSED = {
    "fewshot_as_multiturn": "has no few-shot examples",
    "system_instruction": "has its own instruction",
    "seed": "sets no seed",
}


class TwoStageProgram(Catalogued):
    """A program that is started anew for each row, and for each of its two stages."""

    def stages(self, row: Row) -> Sequence[RowStage]:
        """Return the two stages; a server that the row names has the GPU."""
        runs_model_code = self._runs_model_code(row)
        return [
            RowStage(GENERATE, uses_gpu=row.typed.backend != "openai", cpus=2, memory_gib=16),
            RowStage(
                EVALUATE, uses_gpu=False, runs_model_code=runs_model_code, cpus=8, memory_gib=16
            ),
        ]

    def generation_row(self, row: Row) -> Row:
        """Return the row without n_shot, which changes nothing."""
        return row.with_cells(n_shot="")

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        """Return each row by itself: the program loads the model for each of its starts."""
        del stage
        return [[row] for row in rows]

    def _runs_model_code(self, row: Row) -> bool:
        """Return whether the evaluation of a row runs what the model has written."""
        del row
        return True


def require_usable(row: Row, fixed: Mapping[str, str]) -> None:
    """Raise InputError, with the column, for what a program with a file of problems cannot do.

    `fixed` has the settings of generation that the program decides itself, with their values.
    """
    suite = row.typed.eval_suite
    if row.typed.n_shot not in (None, 0):
        raise row.error("n_shot", f"{suite} has no few-shot examples; leave it empty")
    row_settings.refuse(row, _REFUSED)
    for name in fixed.keys() & row.typed.gen_kwargs.keys():
        raise row.error("gen_kwargs", f"{suite} has no setting {name}: it is {fixed[name]}")
