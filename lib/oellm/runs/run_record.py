"""The parts of run.json: job arrays, shards and submissions."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Executor(str, Enum):
    """What runs the elements of a run."""

    SLURM = "slurm"
    LOCAL = "local"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Array:
    """One job array: a batch script whose elements differ only in their rows.

    Each element has `workers` workers, the last element maybe fewer. Worker W of element E
    evaluates the shard first_shard + E * workers + W.

    Attributes:
        script: The file name of the batch script.
        eval_suite: The framework.
        gpus: GPUs of each worker; 0 if the jobs of the cluster have none.
        workers: Workers of each element.
        elements: The number of elements.
        first_shard: The shard of the first worker of the first element.
        time_limit: As Slurm writes it; empty if the jobs have no limit of their own.
    """

    script: str
    eval_suite: str
    gpus: int
    workers: int
    elements: int
    first_shard: int
    time_limit: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Array:
        """Read an entry of `arrays` in run.json."""
        return cls(**_known_fields(cls, content))

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `arrays` in run.json."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Shard:
    """What one worker evaluates.

    Attributes:
        index: The number of the shard in the run.
        array: The position of its array in the run.
        element: The array element that has its worker.
        models: The number of models.
        rows: The number of rows.
        estimate_s: Estimated seconds, with start-up and model loads.
    """

    index: int
    array: int
    element: int
    models: int
    rows: int
    estimate_s: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Shard:
        """Read an entry of `shards` in run.json."""
        return cls(**_known_fields(cls, content))

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `shards` in run.json."""
        return {**dataclasses.asdict(self), "estimate_s": round(self.estimate_s, 1)}


@dataclass(frozen=True)
class Submission:
    """Array elements that were handed to Slurm with one sbatch, or run by one oe-submit here.

    Attributes:
        executor: What runs them.
        job_id: The number of the job, or of the oe-submit process; None until sbatch has told it.
        array: The position of the array in the run.
        elements: The numbers of the elements in that array.
        offset: The element that has the array index 0.
        submitted: When (UTC, ISO 8601).
        comment: The comment by which Slurm knows the job; empty for the local executor.
        command: The command line of sbatch; empty for the local executor.
    """

    executor: Executor
    job_id: int | None
    array: int
    elements: tuple[int, ...]
    offset: int
    submitted: str
    comment: str = ""
    command: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Submission:
        """Read an entry of `jobs` in run.json."""
        return cls(
            executor=Executor(content["executor"]),
            job_id=content["job_id"],
            array=content["array"],
            elements=tuple(content["elements"]),
            offset=content["offset"],
            submitted=content["submitted"],
            comment=content.get("comment", ""),
            command=tuple(content.get("command", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `jobs` in run.json."""
        content = dataclasses.asdict(self) | {"executor": self.executor.value}
        content["elements"], content["command"] = list(self.elements), list(self.command)
        if self.executor is Executor.LOCAL:
            del content["comment"], content["command"]
        return content

    @property
    def time(self) -> datetime.datetime:
        """When it was submitted."""
        return datetime.datetime.fromisoformat(self.submitted)


def _known_fields(kind: type[Array] | type[Shard], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a class's fields; a later version may have written more."""
    return {
        field.name: content[field.name]
        for field in dataclasses.fields(kind)
        if field.name in content
    }
