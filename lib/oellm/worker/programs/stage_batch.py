"""What one start of a program computes: a stage of some rows of one model."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from oellm import frameworks
from oellm.core.display import format_count
from oellm.core.text_enum import TextEnum
from oellm.frameworks.program import Program
from oellm.frameworks.stages import RowStage, environment_key
from oellm.manifest import rows as manifest
from oellm.manifest.model_key import model_key
from oellm.manifest.rows import Row


class Part(TextEnum):
    """Which stages of its rows a worker computes."""

    ALL = "all"
    FIRST = "first"
    LATER = "later"


# The numbers of the stages that a part has, in order.
NUMBERS = {Part.ALL: (0, 1), Part.FIRST: (0,), Part.LATER: (1,)}


@dataclass(frozen=True)
class DueStage:
    """A row, and a stage of it that a program computes.

    Attributes:
        row: The row.
        program: What computes the stage.
        stage: The stage.
        is_first: Whether it is the first one.
        is_last: Whether the row has its result after it.
        key: The key of the output of the first stage; empty if the row has one stage.
        subject: The row that the program is told to compute: for the first stage of two, what that
            depends on.
        generation: The row as far as the first stage of two depends on it; else the row itself.
    """

    row: Row
    program: Program
    stage: RowStage
    is_first: bool
    is_last: bool
    key: str
    subject: Row
    generation: Row

    @property
    def label(self) -> str:
        """The name of the row, for messages."""
        row = self.row
        shots = f" n_shot={row['n_shot']}" if row["n_shot"] else ""
        return f"{row['model_path']} {row['task_path']}{shots}"

    @property
    def stage_name(self) -> str:
        """The stage, for records; empty if the row has one."""
        return self.stage.name if self.key else ""

    @property
    def environment(self) -> str:
        """The key of the settings `images` and `venvs`."""
        return environment_key(self.row.typed.eval_suite, self.stage, is_first=self.is_first)


@dataclass(frozen=True)
class StageBatch:
    """The rows of one start of a program; all have the same stage, program and model.

    Attributes:
        subjects: The rows that the program is told to compute.
        staged: All rows that this computes; several may share a subject.
        obstacle: Why the adapter has no batches of these rows; each of them is alone then.
    """

    subjects: tuple[Row, ...]
    staged: tuple[DueStage, ...]
    obstacle: Exception | None = None

    @property
    def first(self) -> DueStage:
        """One of the rows, for what all have in common."""
        return self.staged[0]

    @property
    def label(self) -> str:
        """The name of the first row, and how many more there are."""
        more = len(self.staged) - 1
        others = f" and {format_count(more, 'other row')}" if more else ""
        return self.first.label + others

    @property
    def name(self) -> str:
        """The stage, for messages."""
        return self.first.stage.name

    @property
    def stage_name(self) -> str:
        """The stage, for records; empty if the rows have one."""
        return self.first.stage_name

    def only(self, eval_ids: Container[str]) -> StageBatch:
        """Return the batch with some of its rows."""
        staged = tuple(each for each in self.staged if each.row["eval_id"] in eval_ids)
        wanted = {each.subject["eval_id"] for each in staged}
        subjects = tuple(row for row in self.subjects if row["eval_id"] in wanted)
        return StageBatch(subjects, staged, self.obstacle)


def stage_row(row: Row, number: int) -> DueStage | None:
    """Return a stage of a row, 0 for the first; None if there is none, or the worker computes it.

    Raises InputError for a row that its framework cannot evaluate.
    """
    stages = frameworks.stages_of(row)
    if number >= len(stages) or stages[number].is_resident:
        return None
    return _due_stage(row, stages, number)


def resident_stage(row: Row) -> DueStage | None:
    """Return the first of a row's two stages if the worker computes it; else None."""
    stages = frameworks.stages_of(row)
    return _due_stage(row, stages, 0) if len(stages) > 1 and stages[0].is_resident else None


def _due_stage(row: Row, stages: Sequence[RowStage], number: int) -> DueStage:
    program = frameworks.create_program(row.typed.eval_suite)
    assert program is not None
    key, generation = "", row
    if len(stages) > 1:
        generation = program.generation_row(row).without("eval_id")
        key = manifest.eval_id(generation)
        generation = generation.with_cells(eval_id=key)
    return DueStage(
        row=row,
        program=program,
        stage=stages[number],
        is_first=number == 0,
        is_last=number == len(stages) - 1,
        key=key,
        subject=row if number else generation,
        generation=generation,
    )


def make_batches(staged: Iterable[DueStage]) -> Iterator[StageBatch]:
    """Yield the rows in batches; those of a model are together, in the order of first rows."""
    groups: dict[object, list[DueStage]] = {}
    for each in staged:
        groups.setdefault((each.environment, each.stage, model_key(each.row)), []).append(each)
    for group in groups.values():
        by_subject: dict[str, list[DueStage]] = {}
        for each in group:
            by_subject.setdefault(each.subject["eval_id"], []).append(each)
        subjects = [members[0].subject for members in by_subject.values()]
        obstacle = None
        try:
            batches = group[0].program.batches(subjects, group[0].stage)
        # The adapter of another package may raise anything; it costs these rows and no others.
        except Exception as error:
            batches, obstacle = [[row] for row in subjects], error
        for batch in batches:
            members = [each for row in batch for each in by_subject[row["eval_id"]]]
            yield StageBatch(tuple(batch), tuple(members), obstacle)
