"""The interface between oellm and an evaluation framework: what each adapter provides.

An adapter has up to five parts: `Model`, `Evaluator`, `Tasks`, `ResultReader` and `SampleReader`.
The first two run the framework, the third builds its tasks without a model, and the last two only
read its files, without importing the framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.models.staging import Source
from oellm.runs.answers import Answers
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment, TaskState
from oellm.runs.result_record import Facts, RowTiming, RowUsage

# The types of requests: the likelihood of a continuation, the likelihood of a whole text, and
# generated text. The column request_types and the table `task` of schema.json use these names.
LOGLIKELIHOOD = "loglikelihood"
LOGLIKELIHOOD_ROLLING = "loglikelihood_rolling"
GENERATE_UNTIL = "generate_until"


def count_documents(available: int, limit: float | None) -> int:
    """Return how many of a task's documents a row evaluates.

    `limit` is a number of documents, a fraction below 1 (rounded up), or None for all.
    """
    if limit is None:
        return available
    return min(available, math.ceil(available * limit) if limit < 1 else int(limit))


@dataclass(frozen=True)
class Evaluation:
    """What a framework returns for one row.

    Attributes:
        native: The framework's own result, JSON-like.
        scores: The scores in the native result, in our form.
        samples: The documents with their prompts and answers, by task.
        timing: The seconds of the steps that the framework took.
        usage: What the model did.
        remarks: What the user should know about the scores.
        provenance: Where the numbers come from: versions, data sets, tasks, model.
        contents: What the scores were computed from.
        environment: What they were computed with.
        tasks: The state of each task and group.
    """

    native: dict[str, Any]
    scores: list[MetricScore]
    samples: Mapping[str, list[Any]]
    timing: RowTiming
    usage: RowUsage
    remarks: list[str] = field(default_factory=list)
    provenance: Facts = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)
    environment: Environment = field(default_factory=Environment)
    tasks: Mapping[str, TaskState] = field(default_factory=dict)


@dataclass(frozen=True)
class Generation:
    """What a framework returns for the first stage of a row, whose output is in a directory.

    Attributes:
        timing, usage, provenance, contents, environment: As in Evaluation.
    """

    timing: RowTiming
    usage: RowUsage
    provenance: Facts
    contents: Contents
    environment: Environment


class StoppedError(Exception):
    """The model stopped between two batches, because it was asked to."""


# Called with three numbers of requests: answered so far, in total, and answered by earlier
# attempts. Returns whether the model should go on.
GoOn = Callable[[int, int, int], bool]


class Model(Protocol):
    """A model in a process of its own."""

    # Whether this process can load another model after this one.
    replaceable: bool
    # What the model's answers depend on besides the requests.
    origin: str

    def load(self, key: ModelKey, row: Row, source: Source) -> Any:
        """Load the row's model in place of the current one; return a handle for rows (picklable).

        The files are read from `source`, which may be a copy; everything reported names the
        original.
        """
        ...

    def answer(self, call: Any, answers: Answers | None, go_on: GoOn) -> Any:
        """Return the model's reply to a row's call (both picklable).

        `answers` stores the answers to the row's requests and knows those of earlier attempts.
        The model calls `go_on` after each batch and raises StoppedError if that returns False.
        """
        ...

    def is_broken_by(self, error: BaseException) -> bool:
        """Return whether this process can compute nothing more after this error."""
        ...


class ModelClient(Protocol):
    """The model, as the process of a row sees it."""

    def wait_for_model(self) -> Any:
        """Wait for the model; return what Model.load returned. Raises if it did not load."""
        ...

    def request_reply(self, call: Any, is_last: bool) -> Any:
        """Send a call to the model; return what Model.answer returns.

        `is_last` says that the row makes no further call.
        """
        ...


class Evaluator(Protocol):
    """A framework without its models: builds tasks, asks a model, computes metrics."""

    def prepare(self, rows: Sequence[Row]) -> None:
        """Import what these rows need. This must neither touch a GPU nor start a thread."""
        ...

    def evaluate(self, row: Row, model: ModelClient, bootstrap_iters: int) -> Evaluation:
        """Evaluate one row; any exception means that the row failed."""
        ...

    def generate(self, row: Row, model: ModelClient, output: Path) -> Generation:
        """Compute the first stage of a row that has two, into an empty directory.

        Runs no code that the model wrote; any exception means that the row failed.
        """
        ...


class ChangedDataError(Exception):
    """A row's data are not those with which it was prepared."""


class NotPermittedError(Exception):
    """A task does something that its row does not permit."""


class Demand(NamedTuple):
    """The settings of a row that change what its task needs.

    Attributes:
        n_shot: Few-shot examples; None leaves the task's own number.
        limit: A number of documents, a fraction below 1, or None for all documents.
    """

    n_shot: int | None
    limit: float | None


class TaskFacts(NamedTuple):
    """The amount of work in a task, and what it was built from.

    Attributes:
        n_docs: The number of documents.
        requests: The number of requests by type (LOGLIKELIHOOD and so on).
        dataset_revision: org/name@commit of each data set on the hub, separated by blanks.
        task_digest: What Tasks.task_digest returns.
        task_version: What Tasks.task_version returns.
    """

    n_docs: int
    requests: dict[str, int]
    dataset_revision: str
    task_digest: str = ""
    task_version: str = ""


class DataSet(Protocol):
    """A data set that a task loads; `str()` gives its name for messages."""

    def load(self) -> None:
        """Load it, which fills the cache; raises whatever prevents that."""
        ...


class Tasks(Protocol):
    """The tasks of a framework, without a model."""

    def require(self, task: str, include_path: str) -> None:
        """Raise InputError, with the column, if there is no such task.

        Raises MachineError if the framework is not installed.
        """
        ...

    def find_unknown(self, task: str, include_path: str) -> str:
        """Return that the framework installed here has no such task, with the nearest name.

        Returns an empty text if it has, or if that cannot be known soon. Raises InputError, with
        the column, for a mistake in the user's own files, whatever the framework has.
        """
        ...

    def prepare(self) -> None:
        """Import what building a task needs."""
        ...

    def data_sets(self, task: str, include_path: str) -> Sequence[DataSet]:
        """Return the data sets that a task loads, as far as its configuration tells.

        Raises InputError, with the column, if there is no such task.
        """
        ...

    def describe_task(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Build a task; return for each demand the facts, or the error that prevents it.

        Raises whatever prevents building the task at all.
        """
        ...

    def task_digest(self, task: str, include_path: str) -> str:
        """Return 16 hex digits over all that a task's scores depend on besides the model.

        That is its own configuration with everything that it includes, the code that it names and
        its local data files; for a group, those of its tasks. Loads no data set, and runs no code.
        The digest of a task that comes with the framework depends on the framework's version.
        Returns an empty text if it cannot be known soon; raises InputError if there is no such
        task.
        """
        ...

    def task_version(self, task: str, include_path: str) -> str:
        """Return the version that a task gives itself, for a group the one that all its tasks have.

        Returns an empty text if there is none, or if it cannot be known soon; raises InputError if
        there is no such task.
        """
        ...

    def local_paths(self, task: str, include_path: str) -> set[str]:
        """Return the paths on this machine that building a user's task reads: definitions and data.

        As far as configurations tell; raises InputError if there is no such task.
        """
        ...


class ResultReader(Protocol):
    """A reader of the result files that a framework writes, itself or through oe-run-task."""

    def read_scored_rows(self, document: dict[str, Any], path: str) -> list[ScoredRow] | None:
        """Return the rows of a file that the framework wrote; None if it did not write it.

        Raises ValueError, with the reason, if the file is damaged.
        """
        ...


class NativeResultReader(ResultReader, Protocol):
    """The same for a framework that oe-run-task runs."""

    def request_types(self, native: Mapping[str, Any]) -> frozenset[str]:
        """Return the types of the requests behind a native result, as far as it tells."""
        ...

    def task_states(self, native: Mapping[str, Any]) -> dict[str, TaskState]:
        """Return the version and hash of each task of a native result, as far as it tells.

        Raises TypeError, LookupError or AttributeError if the result is damaged.
        """
        ...


class Sample(NamedTuple):
    """One document's scores with one filter.

    Attributes:
        task: The task.
        filter: The filter, as in metric records.
        document: What tells the document from others of the task: content, target.
        scores: The document's values by metric; whatever type the framework wrote.
    """

    task: str
    filter: str
    document: tuple[Any, ...]
    scores: Mapping[str, Any]


class SampleReader(Protocol):
    """A reader of the per-document samples that a framework writes."""

    def parse_sample(self, line: bytes, task: str) -> Sample:
        """Parse one line; `task` is the task of a line that names none.

        Raises ValueError, TypeError, LookupError or AttributeError if the line is no sample.
        """
        ...

    def sample_file_names(self, result_name: str, task: str) -> Sequence[str]:
        """Return possible names of a task's samples beside a result file; the first one counts."""
        ...

    def group_members(self, native: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the members of each group of a native result."""
        ...
