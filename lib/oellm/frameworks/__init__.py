"""Evaluation frameworks, one adapter module each, by the name that eval_suite gives them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from oellm.errors import UsageError, nearest
from oellm.manifest import Row
from oellm.shards import ModelKey

_ADAPTERS = {"lm_eval": "oellm.frameworks.lm_eval"}


@dataclass(frozen=True)
class Evaluation:
    """What a framework returns for one row."""

    # The framework's own result, JSON-like.
    native: dict[str, Any]
    # Normalised: task, group, n_shot, metric, filter, value, stderr, higher_is_better, n_samples.
    metrics: list[dict[str, Any]]
    # The documents with prompts and answers, by task.
    samples: Mapping[str, list[Any]]
    # What the user should know about the score.
    remarks: list[str] = field(default_factory=list)


class Session(Protocol):
    """One process's use of a framework: it keeps the model that was loaded last."""

    def prepare(self) -> None:
        """Import the framework."""
        ...

    def load(self, key: ModelKey, row: Row) -> float:
        """Make the row's model the loaded one; return the seconds it took, 0 if it was there."""
        ...

    def index_tasks(self, row: Row) -> float:
        """Index the tasks that the row can name; return the seconds it took."""
        ...

    def evaluate(self, row: Row) -> Evaluation:
        """Evaluate one row on the loaded model; any exception means that the row failed."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that a score depends on."""
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


def names() -> list[str]:
    """Return the names of the supported frameworks."""
    return sorted(_ADAPTERS)


def require(row: Row) -> str:
    """Return the row's framework; raises InputError where it is not supported."""
    name: str = row.value("eval_suite")
    if name not in _ADAPTERS:
        known = ", ".join(names())
        raise row.error("eval_suite", f"expected one of {known}, got {name!r}")
    return name


def session(name: str) -> Session:
    """Start the use of a framework."""
    made: Session = _adapter(name).Session()
    return made


def tasks(name: str) -> Tasks:
    """Return the tasks of a framework."""
    made: Tasks = _adapter(name).Tasks()
    return made


def _adapter(name: str) -> Any:
    if name not in _ADAPTERS:
        raise UsageError(f"unknown framework {name!r}{nearest(name, _ADAPTERS)}")
    return importlib.import_module(_ADAPTERS[name])
