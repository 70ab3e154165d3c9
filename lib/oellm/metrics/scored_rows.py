"""The scores of one row, in the same form for our results and for those of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from oellm.manifest.rows import Row
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment, TaskState
from oellm.runs.result_file import Result, read_record
from oellm.runs.result_record import ResultRecord

# Keys that a metric of a result may lack, with their values then.
_OPTIONAL: dict[str, Any] = {
    "group": "",
    "n_shot": None,
    "stderr": None,
    "higher_is_better": None,
    "n_samples": None,
    "aggregate": "",
}


class MetricScore(NamedTuple):
    """A score of a task, subtask or group; one metric of a result.

    The fields are columns of schema.json's table `metric`, and keys of a result's `metrics`.
    """

    task: str
    group: str
    n_shot: int | None
    metric: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    n_samples: int | None
    aggregate: str

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> MetricScore:
        """Return the score in a valid result."""
        try:
            return cls._make(_members(members))
        except KeyError:
            return cls._make(_members({**_OPTIONAL, **members}))

    def to_json(self) -> dict[str, Any]:
        """Return the score as a result has it."""
        return self._asdict()


_NO_TASKS: Mapping[str, TaskState] = {}
_members = itemgetter(*MetricScore._fields)


class ScoredRow(NamedTuple):
    """A row with its scores, from a result of ours or of another tool.

    Attributes:
        row: The manifest row. For a native result it has the cells that the result tells:
            model_path with arguments, task_path (the task or group that was asked for), n_shot,
            eval_suite, limit, gen_kwargs, apply_chat_template, model_revision, primary_metric.
            Only our results have an eval_id.
        finished: When the evaluation ended, in UTC as ISO 8601; empty if unknown.
        run_dir: The run directory, or the file of a result that is in none.
        remarks: Metrics that are left out, and why: what the result should have, and has not.
        notes: What else the user should know.
        contents: What the scores were computed from.
        environment: What they were computed with.
        tasks: The state of each task and group, as far as it is known.
        has_guessed_model: Whether the result names no model, so that other models' results may
            have the same name.
    """

    row: Row
    scores: list[MetricScore]
    finished: str
    run_dir: str
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    contents: Contents = Contents()
    environment: Environment = Environment()
    tasks: Mapping[str, TaskState] = _NO_TASKS
    has_guessed_model: bool = False


def read_scored_row(result: Result, run_dir: str) -> ScoredRow:
    """Return the row and scores of a valid result of ours (`check_result`)."""
    return of_record(read_record(result), run_dir)


def of_record(record: ResultRecord, run_dir: str) -> ScoredRow:
    """Return the row and scores of our record of a valid result."""
    cells = record.cells
    cells["eval_id"] = record.eval_id
    scores = list(map(MetricScore.from_json, record.metrics))
    return ScoredRow(
        row=Row(cells),
        scores=scores,
        finished=record.finished,
        run_dir=run_dir,
        contents=record.contents,
        environment=record.environment,
        tasks=record.tasks,
    )
