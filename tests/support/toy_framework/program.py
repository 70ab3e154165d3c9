"""The adapter of the toy framework.

Tasks: `two` and `two_part` share one generation and have a second stage; `one` and `one_more` have
one stage, and share a start of the program; the second stage of `code` runs what the model says.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.core.regular_files import read_regular
from oellm.frameworks.catalogue import Catalogue, CatalogueTask
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import (
    Command,
    InvalidOutputError,
    Need,
    Place,
    RowSetting,
    UnfinishedOutputError,
)
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.manifest.rows import Row, eval_id
from oellm.metrics.scored_rows import MetricScore
from oellm.runs.environment import Environment
from oellm.runs.result_record import RowTiming, RowUsage

TASKS = ("one", "one_more", "two", "two_part", "code")
SCRIPT = "questions.py"
FOUND = "found.json"


class Toy:
    """The framework."""

    version = "1.0"

    def catalogue(self) -> Catalogue:
        return Catalogue(self.version, {name: CatalogueTask(4) for name in TASKS})

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        return {}

    def check(self, row: Row) -> None:
        pass

    def problem_files(self, task: str) -> Sequence[str]:
        return ()

    def needs(self, row: Row) -> Sequence[Need]:
        return ()

    def stages(self, row: Row) -> Sequence[RowStage]:
        if row["task_path"].startswith("one"):
            return [RowStage(EVALUATE, uses_gpu=True)]
        runs_code = row["task_path"] == "code"
        evaluate = RowStage(EVALUATE, uses_gpu=False, runs_model_code=runs_code)
        return [RowStage(GENERATE, uses_gpu=True), evaluate]

    def generation_row(self, row: Row) -> Row:
        return row if row["task_path"] == "code" else row.with_cells(task_path="two")

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        together = [row for row in rows if row["task_path"].startswith("one")]
        alone = [[row] for row in rows if row not in together]
        return [*alone, together] if together else alone

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        source, step = place.model, stage.name
        if rows[0]["task_path"].startswith("one"):
            step = "both"
        elif stage.name == EVALUATE:
            source = f"{place.inputs[eval_id(self.generation_row(rows[0]))]}/{FOUND}"
        script = pkgutil.get_data(__package__ or "", SCRIPT) or b""
        code = "code" if rows[0]["task_path"] == "code" else ""
        argv = (place.python, place.own_file(SCRIPT), step, source, FOUND, code)
        return Command(argv, files={SCRIPT: script})

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        if (output / f"without_{row['task_path']}").exists():
            raise UnfinishedOutputError("the program has not come to it")
        if not (output / FOUND).is_file():
            raise InvalidOutputError(f"{FOUND} is missing")

    def evaluation(self, row: Row, outputs: Mapping[str, Path]) -> Evaluation:
        found: dict[str, Any] = json.loads(read_regular(outputs[EVALUATE] / FOUND))
        score = {"task": row["task_path"], "metric": "acc", "filter": "", "n_samples": found["of"]}
        return Evaluation(
            native={"toy": found},
            scores=[MetricScore.from_json({**score, "value": found["right"] / found["of"]})],
            samples={row["task_path"]: [{"doc_id": 0}]},
            timing=RowTiming(),
            usage=RowUsage(
                documents=4,
                documents_per_s=None,
                requests=4,
                requests_kept=0,
                requests_per_s=None,
                tokens=None,
                tokens_per_s=None,
                batch_size=1,
                peak_gpu_bytes=None,
            ),
            environment=Environment(framework_version=self.version),
        )


def create_program() -> Toy:
    return Toy()
