"""What an adapter of an evaluation framework is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models.staging import Source
from oellm.runs.answers import Answers


@dataclass(frozen=True)
class Evaluation:
    """What a framework returns for one row."""

    # The framework's own result, JSON-like.
    native: dict[str, Any]
    # Normalised: task, group, n_shot, metric, filter, value, stderr, higher_is_better, n_samples,
    # aggregate.
    metrics: list[dict[str, Any]]
    # The documents with prompts and answers, by task.
    samples: Mapping[str, list[Any]]
    # What the user should know about the score.
    remarks: list[str] = field(default_factory=list)
    # Seconds that its parts took, and what the model did (schema.json, table `result`).
    timing: dict[str, float] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    # Where the numbers come from: versions, data sets, tasks, model.
    provenance: dict[str, Any] = field(default_factory=dict)


class StoppedError(Exception):
    """The model was asked to stop, and did so between two batches."""


# Called with the numbers of requests that are answered, of all, and of those that were answered
# before; returns whether to go on.
GoOn = Callable[[int, int, int], bool]


class Model(Protocol):
    """A loaded model; it has a process of its own."""

    # Whether another model can be loaded in this process after this one.
    replaceable: bool
    # On what its answers depend, besides what it is asked.
    origin: str

    def load(self, key: ModelKey, row: Row, source: Source) -> Any:
        """Make the row's model the loaded one; return what rows must know of it (pickled).

        Its files are read from `source`, which may be a copy; all that is told names the original.
        """
        ...

    def answer(self, call: Any, answers: Answers | None, go_on: GoOn) -> Any:
        """Return what a row asks of the model (both pickled).

        `answers` keeps what the row's requests were answered, and has what was answered before.
        `go_on` is called after each batch; where it says no, this raises StoppedError.
        """
        ...

    def is_broken_by(self, error: BaseException) -> bool:
        """Return whether nothing works in this process any more after this error."""
        ...


class ModelClient(Protocol):
    """The model, as a row's process sees it."""

    def handle(self) -> Any:
        """Return what Model.load returned; waits for it. Raises OellmError if it did not load."""
        ...

    def ask(self, call: Any, last: bool) -> Any:
        """Return what Model.answer returns; `last`: the row will ask nothing more."""
        ...


class Evaluator(Protocol):
    """A framework without its models: builds tasks, asks a model, computes metrics."""

    def prepare(self, rows: Sequence[Row]) -> None:
        """Import what these rows need; nothing of it may touch a GPU, or start a thread."""
        ...

    def evaluate(self, row: Row, model: ModelClient, bootstrap_iters: int) -> Evaluation:
        """Evaluate one row; any exception means that it failed."""
        ...


class NotPermittedError(Exception):
    """A task does what its row does not permit."""


class Demand(NamedTuple):
    """What a row asks of its task, as far as it changes what the task needs."""

    n_shot: int | None
    limit: float | None
    runs_unsafe_code: bool


class TaskFacts(NamedTuple):
    """How much work a task is, and the data that it was found with."""

    n_docs: int
    # The number of requests of each type: loglikelihood, generate_until, loglikelihood_rolling.
    requests: dict[str, int]
    # org/name@commit of each data set of the hub, separated by blanks.
    dataset_revision: str


class DataSet(Protocol):
    """A data set that a task loads."""

    def load(self) -> None:
        """Load it, which fills the cache; raises whatever keeps it from being loaded."""
        ...


class Tasks(Protocol):
    """The tasks of a framework, without a model."""

    def prepare(self) -> None:
        """Import what building a task needs."""
        ...

    def data_sets(self, task: str, include_path: str) -> Sequence[DataSet]:
        """Return the data sets that a task loads, as far as they are known without building it.

        Raises InputError, with the column, where there is no such task.
        """
        ...

    def facts(
        self, task: str, include_path: str, demands: list[Demand]
    ) -> list[TaskFacts | BaseException]:
        """Build a task; return the facts for each demand, or what keeps it from being met.

        Raises what keeps it from being built.
        """
        ...
