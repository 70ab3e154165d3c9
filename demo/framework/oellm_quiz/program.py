"""The adapter of quiz: what oellm starts for its rows, and which outputs count."""

import pkgutil

from oellm.frameworks import program_files, row_settings
from oellm.frameworks.catalogue import read_catalogue
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import Command, InvalidOutputError, RowSetting
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.metrics.scored_rows import MetricScore
from oellm.runs.environment import Environment
from oellm.runs.result_record import RowTiming

SETTINGS = {"width": RowSetting(row_settings.POSITIVE, "64", stage=EVALUATE)}
OUTPUTS = {GENERATE: "answers.json", EVALUATE: "scores.json"}
KINDS = {GENERATE: [str, int], EVALUATE: [bool, bool]}


class Quiz:
    version = "1.0"

    def catalogue(self):
        return read_catalogue(__package__)

    def settings(self, task):
        return SETTINGS

    def check(self, row):
        row_settings.read_settings(row, SETTINGS)
        row_settings.refuse(row, {"n_shot": "has no examples", "limit": "has only two questions"})

    def problem_files(self, task):
        return ()

    def needs(self, row):
        return ()

    def stages(self, row):
        if row["task_path"] == "together":
            return [RowStage(EVALUATE, uses_gpu=True)]
        return [RowStage(GENERATE, uses_gpu=True), RowStage(EVALUATE, uses_gpu=False)]

    def generation_row(self, row):
        return row.with_cells(n_shot="", gen_kwargs="")

    def batches(self, rows, stage):
        return [[row] for row in rows]

    def command(self, rows, stage, place):
        width = str(row_settings.read_settings(rows[0], SETTINGS)["width"])
        source = place.model
        if place.inputs:
            (generated,) = place.inputs.values()
            source = f"{generated}/{OUTPUTS[GENERATE]}"
        words = (source, "" if stage.name == GENERATE else width, OUTPUTS[stage.name])
        program = pkgutil.get_data(__package__, "quiz.py")
        argv = (place.python, place.own_file("quiz.py"), *words)
        return Command(argv, files={"quiz.py": program})

    def check_output(self, row, stage, output):
        self._read(stage.name, output)

    def evaluation(self, row, outputs):
        right = self._read(EVALUATE, outputs[EVALUATE])
        score = {"task": row["task_path"], "metric": "acc", "filter": "", "n_samples": 2}
        score |= {"value": sum(right.values()) / 2, "higher_is_better": True}
        return Evaluation(
            native={"right": right},
            scores=[MetricScore.from_json(score)],
            samples={},
            timing=RowTiming(),
            usage=program_files.describe_usage(row, documents=2, requests=2),
            environment=Environment(framework_version=self.version),
        )

    def _read(self, stage, output):
        found = program_files.read_json(output / OUTPUTS[stage])
        if not isinstance(found, dict) or list(map(type, found.values())) != KINDS[stage]:
            raise InvalidOutputError(f"{OUTPUTS[stage]}: expected two values, got {found}")
        return found


def create_program():
    return Quiz()
