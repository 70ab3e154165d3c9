"""Its adapter, as far as a plan asks it.

`problems` and `problems-hard` share a generation, and `alone` has one stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oellm.frameworks.catalogue import Catalogue, CatalogueTask
from oellm.frameworks.program import Need, RowSetting
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.manifest.rows import Row

NAME = "two_stages"
TASKS = {"problems": 20, "problems-hard": 5, "alone": 10, "broken": 20}


class TwoStages:
    """The adapter."""

    version = "1"

    def catalogue(self) -> Catalogue:
        """Return the tasks."""
        tasks = {name: CatalogueTask(n_docs=count) for name, count in TASKS.items()}
        return Catalogue(self.version, tasks)

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings of a row."""
        del task
        return {
            "n_samples": RowSetting("a positive integer", "1"),
            "sleep_s": RowSetting("seconds", "0"),
        }

    def check(self, row: Row) -> None:
        """Refuse shots."""
        if row["n_shot"]:
            raise row.error("n_shot", f"{NAME} has no shots: leave the cell empty")

    def problem_files(self, task: str) -> Sequence[str]:
        """Return that there are none."""
        del task
        return ()

    def needs(self, row: Row) -> Sequence[Need]:
        """Return that nothing is needed."""
        del row
        return ()

    def stages(self, row: Row) -> Sequence[RowStage]:
        """Return two stages, or one."""
        if row.typed.task_path == "alone":
            return [RowStage(EVALUATE, uses_gpu=True)]
        return [
            RowStage(GENERATE, uses_gpu=True),
            RowStage(EVALUATE, uses_gpu=False, runs_model_code=True, cpus=2, memory_gib=3),
        ]

    def generation_row(self, row: Row) -> Row:
        """Return the row as all tasks with the same problems have it."""
        return row.with_cells(task_path=row.typed.task_path.removesuffix("-hard"))

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        """Return a batch for each row."""
        del stage
        return [[row] for row in rows]


def create_program() -> TwoStages:
    """Return the adapter."""
    return TwoStages()
