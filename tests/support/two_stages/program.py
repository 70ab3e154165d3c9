"""Its adapter: a generation writes answers to a file, an evaluation counts them.

`problems` and `problems-hard` share a generation, `alone` has one stage, and of `broken` the
generation fails. The argument `sleep_s` lets a generation last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from oellm.core.regular_files import read_regular
from oellm.frameworks.catalogue import Catalogue, CatalogueTask
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import Command, InvalidOutputError, Need, Place, RowSetting
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import MetricScore
from oellm.runs.result_record import RowTiming, RowUsage

NAME = "two_stages"
TASKS = {"problems": 20, "problems-hard": 5, "alone": 10, "broken": 20}
_GENERATE = """
import json, sys, time
output, task, sleep_s = sys.argv[1:]
time.sleep(float(sleep_s))
if task == "broken":
    sys.exit("the generation of this row fails")
json.dump(list(range(20)), open(output + "/answers.json", "w"))
"""
_EVALUATE = """
import json, sys
output, answers = sys.argv[1:]
json.dump({"count": len(json.load(open(answers)))}, open(output + "/score.json", "w"))
"""
_ALONE = """
import json, sys
json.dump({"count": 1}, open(sys.argv[1] + "/score.json", "w"))
"""


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

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return the Python that does it."""
        (row,) = rows
        task = row.typed.task_path
        if task == "alone":
            return Command((place.python, "-c", _ALONE, place.output))
        if stage.name == GENERATE:
            sleep_s = str(row.typed.gen_kwargs.get("sleep_s", 0))
            return Command((place.python, "-c", _GENERATE, place.output, task, sleep_s))
        (answers,) = place.inputs.values()
        return Command((place.python, "-c", _EVALUATE, place.output, f"{answers}/answers.json"))

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Refuse an output that is no JSON."""
        del row
        name = "answers.json" if stage.name == GENERATE else "score.json"
        try:
            json.loads(read_regular(output / name))
        except (OSError, ValueError) as error:
            raise InvalidOutputError(f"{name}: {error}") from None

    def evaluation(self, row: Row, outputs: Mapping[str, Path]) -> Evaluation:
        """Return the number of answers."""
        count = json.loads(read_regular(outputs[EVALUATE] / "score.json"))["count"]
        task = row.typed.task_path
        score = MetricScore(
            task=task,
            group="",
            n_shot=None,
            metric="count",
            filter="none",
            value=float(count),
            stderr=None,
            higher_is_better=True,
            n_samples=count,
            aggregate="",
        )
        return Evaluation(
            native={"results": {task: {"count": count}}},
            scores=[score],
            samples={},
            timing=RowTiming(),
            usage=RowUsage(
                documents=count,
                documents_per_s=None,
                requests=count,
                requests_kept=0,
                requests_per_s=None,
                tokens=None,
                tokens_per_s=None,
                batch_size=1,
                peak_gpu_bytes=None,
            ),
        )


def create_program() -> TwoStages:
    """Return the adapter."""
    return TwoStages()
