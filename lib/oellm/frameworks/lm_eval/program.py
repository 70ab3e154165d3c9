"""The second stage of lm-eval's code tasks: scoring recorded answers, in a sandbox.

The first stage is resident: the worker's model answers, and the answers are recorded. Scoring runs
the programs in them, so it is a program of its own (code_tasks/replay), which this starts with the
frozen worker in the environment of lm-eval.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from oellm.core import json_codec
from oellm.errors import InputError, MachineError
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from oellm.frameworks.lm_eval.code_tasks.known_names import CODE_TASKS
from oellm.frameworks.lm_eval.code_tasks.recorded_answers import RecordedModel
from oellm.frameworks.lm_eval.code_tasks.replay import read_evaluation
from oellm.frameworks.lm_eval.patches import CODE_METRIC
from oellm.frameworks.program import (
    Command,
    InvalidOutputError,
    Need,
    NeededDataSet,
    NeededMetric,
    Place,
)
from oellm.frameworks.stages import EVALUATE, GENERATE, RowStage
from oellm.manifest.rows import Row
from oellm.runs.frozen_worker import worker_bytes
from oellm.runs.run_directory import WORKER

_ROW = "row.json"
_SCRIPT = "replay.py"
# The main program of the sandbox; its arguments are paths and the number of draws.
_MAIN = b"""\
import json
import sys
from pathlib import Path

worker, row, recorded, output, draws = sys.argv[1:]
sys.path.insert(0, worker)
from oellm.frameworks.lm_eval.code_tasks.replay import replay
from oellm.manifest.rows import Row

cells = json.loads(Path(row).read_text())
log = lambda line: print(line, file=sys.stderr)
replay(Row(cells), Path(recorded), Path(output), bootstrap_iters=int(draws), log=log)
"""

_YAML = (".yaml", ".yml")
# Files that a task's code may read beside its YAML file.
_BESIDE = (*_YAML, ".py", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet")


class LmEvalScoring:
    """Scores the recorded answers of lm-eval's code tasks."""

    def needs(self, row: Row) -> Sequence[Need]:
        """Return the data sets of the task, and the metric that runs code."""
        try:
            found = _managers().data_sets(row["task_path"], row["include_path"])
        except (InputError, MachineError):
            return [NeededMetric(CODE_METRIC)]
        sets = [NeededDataSet(each.path, each.name or "") for each in found]
        return [*sets, NeededMetric(CODE_METRIC)]

    def stages(self, row: Row) -> Sequence[RowStage]:
        """Return two stages for a task that runs code which a model wrote, else one.

        A row that oe-render has planned with two keeps them, whatever is known of lm-eval here.
        """
        if row["evaluate_shard"] or _runs_model_code(row["task_path"], row["include_path"]):
            return [
                RowStage(GENERATE, uses_gpu=True, is_resident=True),
                RowStage(EVALUATE, uses_gpu=False, runs_model_code=True, cpus=4, memory_gib=8),
            ]
        return [RowStage(EVALUATE, uses_gpu=True, is_resident=True)]

    def generation_row(self, row: Row) -> Row:
        """Return the row: the answers depend on all that its score depends on."""
        return row

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        """Return each row by itself, so that a program of one model disturbs no other score."""
        assert stage.name == EVALUATE
        return [[row] for row in rows]

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return what scores the recorded answers of a row."""
        assert stage.name == EVALUATE
        (row,) = rows
        (recorded,) = place.inputs.values()
        directories = _directories(row)
        # Its cache has no fetched sources, but their directories, with the same paths.
        replayed = row.with_cells(include_path=":".join(directories)) if directories else row
        arguments = (
            place.own_file(WORKER),
            place.own_file(_ROW),
            recorded,
            place.output,
            str(place.bootstrap_iters),
        )
        return Command(
            (place.python, place.own_file(_SCRIPT), *arguments),
            env={"HF_ALLOW_CODE_EVAL": "1", "TQDM_DISABLE": "1"},
            files={
                _SCRIPT: _MAIN,
                _ROW: json_codec.dumps(dict(replayed.cells)),
                WORKER: worker_bytes(),
            },
            # The task's own files, wherever its YAML and its code lie.
            reads=tuple(sorted({*_own_files(row), *directories})),
            address_space_gib=None,
            has_samples=_uses_code_metric(row["task_path"]),
        )

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError unless there is an evaluation with scores."""
        assert stage.name == EVALUATE
        try:
            evaluation = read_evaluation(output)
        except (OSError, ValueError) as error:
            raise InvalidOutputError(str(error)) from None
        if not evaluation.scores:
            raise InvalidOutputError(f"lm-eval has no scores of {row['task_path']}")

    def evaluation(self, row: Row, outputs: Mapping[str, Path]) -> Evaluation:
        """Return the scores, and the facts about the model as the first stage recorded them."""
        try:
            evaluation = read_evaluation(outputs[EVALUATE])
            recorded = RecordedModel(outputs[GENERATE])
        except (OSError, ValueError) as error:
            raise InvalidOutputError(f"{row['task_path']}: {error}") from None
        # The sandbox tells the scores. What a program could forge besides is not taken from it.
        handle = recorded.wait_for_model()
        model = {"model": handle.identity.to_json(), "accelerator": handle.accelerator}
        return dataclasses.replace(
            evaluation,
            provenance={**evaluation.provenance, **model},
            environment=recorded.environment,
        )


def create_program() -> LmEvalScoring:
    """Return what scores the answers of lm-eval's code tasks."""
    return LmEvalScoring()


@functools.cache
def _managers() -> TaskManagers:
    return TaskManagers(TaskIndices(os.environ, _ignore))


@functools.cache
def _runs_model_code(task: str, include_path: str) -> bool:
    """Return whether a task runs code that a model wrote; False for a task that does not exist.

    If lm-eval's own tasks are not indexed yet, a list tells, because that takes ten seconds.
    """
    try:
        if _managers().knows(task, include_path):
            return bool(_managers().unsafe_tasks(task, include_path))
    except InputError:
        return False
    except MachineError:
        pass
    return task in CODE_TASKS


def _uses_code_metric(task: str) -> bool:
    """Return whether a task of lm-eval runs code by the metric code_eval alone.

    Other tasks run it in functions of their own, in the process of lm-eval.
    """
    return task in CODE_TASKS and task.startswith(("humaneval", "mbpp"))


def _directories(row: Row) -> list[str]:
    """Return the directories of a row's sources of tasks; none for sources that are not here."""
    try:
        return _managers().directories(row["include_path"])
    except InputError:
        return []


def _own_files(row: Row) -> set[str]:
    """Return the files of a user's task; none for one that comes with lm-eval.

    With a YAML file go the files of code and data beside it, which its code may read, but nothing
    else of its directory: that may be a home.
    """
    try:
        found = _managers().local_paths(row["task_path"], row["include_path"])
    except (InputError, MachineError):
        return set()
    for directory in {os.path.dirname(path) for path in found if path.endswith(_YAML)}:
        for name in os.listdir(directory):
            if name.endswith(_BESIDE) and not name.startswith("."):
                found.add(os.path.join(directory, name))
    return {path for path in found if os.path.exists(path)}


def _ignore(_message: str) -> None:
    """Take what TaskCheck has told the user, once for each run."""
