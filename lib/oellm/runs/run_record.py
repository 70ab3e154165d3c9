"""The record of a run, run.json: the types of its members, job arrays, shards and submissions."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from oellm.core import schema
from oellm.core.display import parse_time
from oellm.core.text_enum import TextEnum
from oellm.slurm.clusters import OWN
from oellm.slurm.job_states import SlurmJob

_Part = TypeVar("_Part")
# The values that a field may have, by its annotation.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": str,
}
# The default of a shard's row_timeout_s: an hour.
LEAST_ROW_TIMEOUT_S = 3600
# Larger numbers are damage: no count, size or process id has more than 63 bits.
_LARGEST = 2**63
# What JSON has for a type of schema.json; these values have no other spelling in run.json.
_JSON_TYPES: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "text": ("text", str),
    "path": ("text", str),
    "time": ("text", str),
    "duration": ("text", str),
    "integer": ("an integer", int),
    "boolean": ("true or false", bool),
    "list": ("a list", list),
    "map": ("an object", dict),
}
# The members of `plan` and `worker`.
_PLAN = {"estimate_s": "float | None", "gpu_hours": "float | None"}
_WORKER = ("file", "sha256")
# The members of a submission that are text and may be missing.
_TEXTS = ("comment", "cluster", "slurm", "cancelled_by")
# The members of a submission that are lists.
_LISTS = ("elements", "command", "cancelled")
# Its members that run.json lacks if they are empty.
_OPTIONAL = ("cluster", "slurm", "cancelled", "cancelled_by")
# The columns of jobs.csv that say where the run evaluates a row.
SHARD_COLUMNS = ("shard", "evaluate_shard")
# Jobs that a node ends before their first row is loaded until it gets no more.
_ENDS = 2


class RecordError(ValueError):
    """A member of run.json is damaged; `key` is its name, with that of the object it is in."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key


def check_members(content: Mapping[str, Any]) -> None:
    """Raise RecordError if a member of run.json is of another type than schema.json says.

    The entries of its long lists, arrays, shards and jobs, are checked when they are read. Members
    and settings that this version does not know may be anything.
    """
    _check_types("run", content)
    _check_types("cluster", content["cluster"], "cluster.")
    _check_parts(content["cluster"])
    for key, kind in _PLAN.items():
        value = content["plan"].get(key)
        if isinstance(value, bool) or not _is_in_range(value, kind):
            raise RecordError(f"plan.{key}", f"expected a number, got {value!r}")
    for key in _WORKER:
        if not isinstance(value := content["worker"].get(key, ""), str):
            raise RecordError(f"worker.{key}", f"expected text, got {value!r}")
    for image in content.get("images", []):
        if not isinstance(image, dict):
            raise RecordError("images", f"expected objects, got {image!r}")
    try:
        parse_time(content["created"])
    except ValueError as error:
        raise RecordError("created", str(error)) from None
    if content["n_rows"] < 0:
        raise RecordError("n_rows", f"expected a non-negative integer, got {content['n_rows']}")


def _check_parts(settings: Mapping[str, Any]) -> None:
    """Raise RecordError if a part of a setting that is a list or an object is one itself."""
    for key, value in settings.items():
        parts = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            for part in parts:
                if isinstance(part, (dict, list)):
                    raise RecordError(f"cluster.{key}", f"expected texts or numbers, got {part!r}")


def _check_types(table: str, content: Mapping[str, Any], prefix: str = "") -> None:
    known = schema.table(table)
    for key in content.keys() & known.keys():
        value = content[key]
        if value is None and table == "cluster":
            continue
        meaning, types = _JSON_TYPES[known[key]["type"]]
        is_other = isinstance(value, bool) and types is not bool
        if is_other or not isinstance(value, types) or not _is_in_range(value):
            raise RecordError(f"{prefix}{key}", f"expected {meaning}, got {value!r}")


class Executor(TextEnum):
    """What runs the elements of a run."""

    SLURM = "slurm"
    LOCAL = "local"


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
        follows: The position of the array whose rows' second stage it computes, None if there is
            none. Both have the same number of elements, and each follows the one with its number.
        cpus: CPU cores of each worker, if its rows need no GPU; else None.
        memory_gib: Memory of such a worker, in GiB.
    """

    script: str
    eval_suite: str
    gpus: int
    workers: int
    elements: int
    first_shard: int
    time_limit: str = ""
    follows: int | None = None
    cpus: int | None = None
    memory_gib: int | None = None

    @property
    def needs_no_gpu(self) -> bool:
        """Whether its rows need no GPU, even if the jobs of the cluster have GPUs."""
        return self.cpus is not None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Array:
        """Read an entry of `arrays` in run.json; raises ValueError if it is damaged."""
        array = read_fields(cls, content)
        if array.workers < 1:
            raise ValueError(f"workers: expected a positive number, got {array.workers}")
        for name in ("gpus", "elements", "first_shard"):
            if (value := getattr(array, name)) < 0:
                raise ValueError(f"{name}: expected a non-negative number, got {value}")
        if os.path.basename(array.script) != array.script or not array.script:
            raise ValueError(f"script: expected the name of a file, got {array.script!r}")
        return array

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `arrays` in run.json."""
        content = dataclasses.asdict(self)
        for name in ("follows", "cpus", "memory_gib"):
            if content[name] is None:
                del content[name]
        return content


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
        row_timeout_s: Seconds after which a row counts as hung, unless a setting says otherwise.
    """

    index: int
    array: int
    element: int
    models: int
    rows: int
    estimate_s: float
    row_timeout_s: int = LEAST_ROW_TIMEOUT_S

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Shard:
        """Read an entry of `shards` in run.json; raises ValueError if it is damaged."""
        return read_fields(cls, content)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `shards` in run.json."""
        content = {**dataclasses.asdict(self), "estimate_s": round(self.estimate_s, 1)}
        if self.row_timeout_s == LEAST_ROW_TIMEOUT_S:
            del content["row_timeout_s"]
        return content


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
        cluster: The cluster that sbatch named in its answer, OWN if it named none. Slurm knows the
            job only there.
        slurm: The name of the Slurm (ClusterName) of the login node; empty if not known.
        cancelled: The elements that oe-submit --cancel took out of the queue.
        cancelled_by: The user who did.
    """

    executor: Executor
    job_id: int | None
    array: int
    elements: tuple[int, ...]
    offset: int
    submitted: str
    comment: str = ""
    command: tuple[str, ...] = ()
    cluster: str = OWN
    slurm: str = ""
    cancelled: tuple[int, ...] = ()
    cancelled_by: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Submission:
        """Read an entry of `jobs` in run.json.

        Raises KeyError, TypeError or ValueError if it is damaged.
        """
        if not isinstance(content, Mapping):
            raise ValueError(f"expected an object, got {content!r}")
        for name in _LISTS:
            if not isinstance(value := content.get(name, []), list):
                raise ValueError(f"{name}: expected a list, got {value!r}")
        cancelled = content.get("cancelled", ())
        numbers = [content["array"], content["offset"], *content["elements"], *cancelled]
        if content["job_id"] is not None:
            numbers.append(content["job_id"])
        for number in numbers:
            if type(number) is not int or not _is_in_range(number):
                raise ValueError(f"expected an integer, got {number!r}")
        if content["job_id"] is not None and content["job_id"] < 1:
            raise ValueError(f"job_id: expected a positive number, got {content['job_id']}")
        texts = {name: content.get(name, "") for name in _TEXTS}
        for text in (*texts.values(), *content.get("command", ())):
            if not isinstance(text, str):
                raise ValueError(f"expected text, got {text!r}")
        parse_time(content["submitted"])
        return cls(
            executor=Executor(content["executor"]),
            job_id=content["job_id"],
            array=content["array"],
            elements=tuple(content["elements"]),
            offset=content["offset"],
            submitted=content["submitted"],
            command=tuple(content.get("command", ())),
            cancelled=tuple(cancelled),
            **texts,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `jobs` in run.json."""
        content = dataclasses.asdict(self) | {"executor": self.executor.value}
        for name in ("elements", "command", "cancelled"):
            content[name] = list(content[name])
        for name in _OPTIONAL:
            if not content[name]:
                del content[name]
        if self.executor is Executor.LOCAL:
            for name in ("comment", "command"):
                content.pop(name, None)
        return content

    @property
    def slurm_job(self) -> SlurmJob | None:
        """What Slurm knows it by; None outside of Slurm, or if its number is not known."""
        if self.executor is not Executor.SLURM or self.job_id is None:
            return None
        return SlurmJob(self.job_id, self.comment, self.time, cluster=self.cluster)

    @property
    def time(self) -> datetime.datetime:
        """When it was submitted."""
        return parse_time(self.submitted)


@dataclass(frozen=True)
class NodeRecord:
    """A node that jobs of the run were sent to (an entry of `nodes` in run.json).

    Attributes:
        node: Slurm's name of it.
        ended: The jobs that ended there before their first row was loaded.
        forgiven: Such jobs from before a user included the node again.
        reason: Why the last of them ended.
        since: When the first of `ended` was noticed (UTC, ISO 8601).
        cpu_only: Whether these are jobs whose rows need no GPU. What such a job lacks on a node,
            others may not need there, so each kind has its record.
    """

    node: str
    ended: tuple[str, ...] = ()
    forgiven: tuple[str, ...] = ()
    reason: str = ""
    since: str = ""
    cpu_only: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> NodeRecord:
        """Read an entry of `nodes` in run.json; raises ValueError if it is damaged."""
        jobs = {name: content.get(name, []) for name in ("ended", "forgiven")}
        for name, members in jobs.items():
            if not isinstance(members, list) or not all(isinstance(m, str) for m in members):
                raise ValueError(f"{name}: expected a list of texts, got {members!r}")
        cpu_only = content.get("cpu_only", False)
        if not isinstance(cpu_only, bool):
            raise ValueError(f"cpu_only: expected true or false, got {cpu_only!r}")
        texts = {name: tuple(members) for name, members in jobs.items()}
        return read_fields(cls, content, **texts, cpu_only=cpu_only)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `nodes` in run.json."""
        content = dataclasses.asdict(self)
        if not self.cpu_only:
            del content["cpu_only"]
        return content | {"ended": list(self.ended), "forgiven": list(self.forgiven)}

    @property
    def key(self) -> tuple[str, bool]:
        """What no other record of the run has: its node, and the kind of its jobs."""
        return self.node, self.cpu_only

    @property
    def is_excluded(self) -> bool:
        """Whether no more of these jobs go there."""
        return len(self.ended) >= _ENDS

    def describe(self) -> str:
        """Return why it is excluded."""
        return (
            f"{len(self.ended)} jobs ended there before their first row was loaded: {self.reason}"
        )


def read_fields(kind: type[_Part], content: Any, **given: Any) -> _Part:
    """Return an object of a dataclass with the values of its fields, which are numbers and texts.

    The fields in `given` have these values instead. `content` may have more keys, which a later
    version may have written. Raises ValueError if it is no object, and if a field without a default
    is missing or of another type.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected an object, got {content!r}")
    values = dict(given)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values:
            continue
        if field.name in content:
            values[field.name] = _checked(field, content[field.name])
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"the key {field.name!r} is missing")
    return kind(**values)


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    if isinstance(value, bool) or not _is_in_range(value, str(field.type)):
        raise ValueError(f"{field.name}: expected {field.type}, got {value!r}")
    return value


def _is_in_range(value: Any, kind: str = "") -> bool:
    """Return whether a value is of a kind, and small enough if it is a number."""
    if kind and not isinstance(value, _TYPES[kind]):
        return False
    # False also of NaN, which compares with nothing.
    return not isinstance(value, (int, float)) or -_LARGEST <= value < _LARGEST
