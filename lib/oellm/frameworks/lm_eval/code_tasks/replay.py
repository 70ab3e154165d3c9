"""Scores the recorded answers of one row with lm-eval; runs in the sandbox, as a program.

The answers are often programs, which lm-eval's metric runs. Value and standard error are those of
an evaluation in one go, because the tasks get the same answers to the same prompts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from oellm.core import atomic, json_codec
from oellm.core.log import Log
from oellm.core.regular_files import read_regular
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.lm_eval.code_tasks.recorded_answers import RecordedModel
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import MetricScore
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment, TaskState
from oellm.runs.result_record import RowTiming, RowUsage

# The file of an output directory with the evaluation.
EVALUATION = "evaluation.json"


def replay(row: Row, recorded: Path, output: Path, *, bootstrap_iters: int, log: Log) -> None:
    """Evaluate a row with recorded answers, and write EVALUATION into a directory.

    Raises whatever lm-eval raises, and ValueError if the prompts are not those of the answers.
    """
    from oellm.frameworks.lm_eval.evaluator import LmEvalEvaluator

    started = time.perf_counter()
    evaluator = LmEvalEvaluator(log, runs_model_code=True)
    evaluator.prepare([row])
    evaluation = evaluator.evaluate(row, RecordedModel(recorded), bootstrap_iters)
    evaluation.timing.row_s = time.perf_counter() - started
    # Whatever a task puts into its samples becomes text, as in lm-eval's own files.
    content = json_codec.dumps(_to_json(evaluation))
    atomic.write_file(output / EVALUATION, content)


def read_evaluation(output: Path) -> Evaluation:
    """Return the evaluation in a directory; raises OSError or ValueError if there is none."""
    content = json_codec.loads(read_regular(output / EVALUATION))
    try:
        return Evaluation(
            native=dict(content["native"]),
            scores=[MetricScore.from_json(score) for score in content["scores"]],
            samples={task: list(found) for task, found in content["samples"].items()},
            timing=RowTiming.from_json(content["timing"]),
            usage=RowUsage.from_json(content["usage"]),
            remarks=list(map(str, content["remarks"])),
            provenance=dict(content["provenance"]),
            contents=Contents.from_json(content["contents"]),
            environment=Environment.from_json(content["environment"]),
            tasks={name: TaskState.from_json(state) for name, state in content["tasks"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{EVALUATION}: damaged: {type(error).__name__}: {error}") from None


def _to_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "native": evaluation.native,
        "scores": [score.to_json() for score in evaluation.scores],
        "samples": evaluation.samples,
        "timing": evaluation.timing.to_json(),
        "usage": evaluation.usage.to_json(),
        "remarks": evaluation.remarks,
        "provenance": evaluation.provenance,
        "contents": evaluation.contents.to_json(),
        "environment": evaluation.environment.to_json(),
        "tasks": {name: state.to_json() for name, state in evaluation.tasks.items()},
    }
