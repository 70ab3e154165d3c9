"""Facts about the task of a row, as `oe-run-task --check_tasks` prints them for oe-fetch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from oellm.frameworks.interface import TaskFacts
from oellm.hub.errors import Problem
from oellm.manifest.rows import Row

# The columns by which the record of a row's task is found.
DEMAND_COLUMNS = (
    "eval_suite",
    "task_path",
    "include_path",
    "n_shot",
    "limit",
)


class Obstacle(NamedTuple):
    """Why a task cannot be evaluated.

    Attributes:
        column: The column to blame.
        problem: The reason.
        is_final: Whether no download can help.
        remedy: A command or option that would help, if one is enough; else empty.
    """

    column: str
    problem: Problem
    is_final: bool = False
    remedy: str = ""


class TaskRecord(NamedTuple):
    """The facts about the task of a row, or what is in its way (schema.json, table `task`).

    Attributes:
        cells: The texts of DEMAND_COLUMNS.
        answer: The facts, or the obstacle; the record does not keep whether that is final.
    """

    cells: tuple[str, ...]
    answer: TaskFacts | Obstacle

    def to_json(self) -> dict[str, Any]:
        """Return the record as printed."""
        cells = dict(zip(DEMAND_COLUMNS, self.cells, strict=True))
        if isinstance(self.answer, Obstacle):
            return {
                **cells,
                "column": self.answer.column,
                "problem": self.answer.problem.text,
                "unreachable": self.answer.problem.unreachable,
                "remedy": self.answer.remedy,
            }
        return {**cells, **self.answer._asdict()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TaskRecord:
        """Return the record that was printed so."""
        cells = tuple(record[column] for column in DEMAND_COLUMNS)
        if "problem" not in record:
            return cls(cells, TaskFacts(*(record[name] for name in TaskFacts._fields)))
        problem = Problem(record["problem"], record["unreachable"])
        return cls(cells, Obstacle(record["column"], problem, remedy=record["remedy"]))


def demand_cells(row: Row) -> tuple[str, ...]:
    """Return the texts of a row by which the record of its task is found."""
    return tuple(row[column] for column in DEMAND_COLUMNS)
