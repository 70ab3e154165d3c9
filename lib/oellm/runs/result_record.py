"""Our record of a row in its result or failure file (schema.json, table `result`).

All keys of the record that we read again have their names here, beside the code that writes them.
Results of earlier versions may lack keys, and those of later versions may have more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.core.text_enum import TextEnum
from oellm.manifest.rows import Row
from oellm.models.identity import LocalIdentity
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment, TaskState, read_task_states
from oellm.runs.run_record import SHARD_COLUMNS

# Facts that a result only keeps, for people: host, command line, container, data sets. The facts
# that we read again are in RowProvenance.
Facts = Mapping[str, Any]


class ResultStatus(TextEnum):
    """Whether a row has scores."""

    DONE = "done"
    FAILED = "failed"


@dataclass
class RowTiming:
    """The seconds that a row took by step, and when it began and ended.

    The schema describes the keys. A step that did not happen, or is not known, is None; `started`
    and `finished` are UTC in ISO 8601, empty if unknown. The worker fills it in step by step.
    """

    start_s: float | None = None
    imports_s: float | None = None
    model_load_s: float | None = None
    task_index_s: float | None = None
    task_build_s: float | None = None
    requests_s: float | None = None
    tokenize_s: float | None = None
    wait_s: float | None = None
    scoring_s: float | None = None
    metrics_s: float | None = None
    generate_s: float | None = None
    evaluate_s: float | None = None
    row_s: float | None = None
    started: str = ""
    finished: str = ""
    writing_s: float | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RowTiming:
        """Read `timing` of a record; raises ValueError if a value is no number or no text."""
        values = {name: content[name] for name in _TIMING if name in content}
        for name, value in values.items():
            is_text = name in ("started", "finished")
            if not isinstance(value, str) if is_text else not _is_number(value):
                raise ValueError(f"timing: {name} is {value!r}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return `timing` of a record: what is known, with microseconds."""
        known = {name: getattr(self, name) for name in _TIMING}
        return {
            name: value if isinstance(value, str) else round(value, 6)
            for name, value in known.items()
            if value is not None and value != ""
        }

    def add(self, other: RowTiming) -> None:
        """Take over what another timing knows."""
        for name in _TIMING:
            if (value := getattr(other, name)) is not None and value != "":
                setattr(self, name, value)


_TIMING = tuple(field.name for field in dataclasses.fields(RowTiming))


class RowUsage(NamedTuple):
    """What the model did for a row; the schema describes the keys. None is unknown."""

    documents: int
    documents_per_s: float | None
    requests: int
    requests_kept: int
    requests_per_s: float | None
    tokens: int | None
    tokens_per_s: float | None
    batch_size: int | str
    peak_gpu_bytes: int | None

    @classmethod
    def from_json(cls, content: Any) -> RowUsage:
        """Read `usage` of a record; raises ValueError if the three counts are not known."""
        if not isinstance(content, dict):
            raise ValueError(f"usage is {content!r}")
        for name in ("documents", "requests", "requests_kept"):
            if type(content.get(name)) is not int:
                raise ValueError(f"usage: {name} is {content.get(name)!r}")
        return cls._make(content.get(name) for name in cls._fields)

    def to_json(self) -> dict[str, Any]:
        """Return `usage` of a record."""
        return self._asdict()


class RowProvenance(NamedTuple):
    """The facts about a result that we read again, out of its provenance.

    Attributes:
        run_dir: The run directory; empty if there is none.
        cluster: The name of the cluster; empty if unknown.
        versions: The versions of the software, by its name.
        gpus: The name of each GPU; None if it is not known whether there were any.
        cpu: The name of the processor; empty if unknown.
        model_bytes: The size of a local model's weights; None if unknown.
    """

    run_dir: str
    cluster: str
    versions: Mapping[str, str]
    gpus: list[str] | None
    cpu: str
    model_bytes: int | None

    @classmethod
    def from_json(cls, content: Any) -> RowProvenance:
        """Read `provenance` of a record; raises ValueError if it is damaged."""
        facts = _object("provenance", content)
        accelerator = _part(facts, "accelerator")
        try:
            gpus = [str(gpu["name"]) for gpu in accelerator["gpus"]] if accelerator else None
        except (KeyError, TypeError):
            raise ValueError(f"provenance: accelerator is {accelerator!r}") from None
        return cls(
            run_dir=str(facts.get("run_dir") or ""),
            cluster=str(facts.get("cluster") or ""),
            versions=_part(facts, "versions"),
            gpus=gpus,
            cpu=str(_part(facts, "cpu").get("model", "")),
            model_bytes=_part(facts, "model").get("total_bytes"),
        )


class FailureRecord(NamedTuple):
    """Why a row has no score.

    Attributes:
        error: The class of the error.
        message: Its text.
        traceback: Where it occurred; empty if unknown.
        attempts: How often the row has failed.
        log: The log file of the last attempt; empty if unknown.
        stage: The stage that failed; empty if the row has one.
    """

    error: str
    message: str
    traceback: str
    attempts: int
    log: str
    stage: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FailureRecord:
        """Read `failure` of a record; raises TypeError or ValueError if it is damaged."""
        return cls(
            error=str(content.get("class", "")),
            message=str(content.get("message", "")),
            traceback=str(content.get("traceback", "")),
            attempts=int(content.get("attempts", 0)),
            log=str(content.get("log", "")),
            stage=str(content.get("stage", "")),
        )

    def to_json(self) -> dict[str, Any]:
        """Return `failure` of a record."""
        return {
            "class": self.error,
            "message": self.message,
            "traceback": self.traceback,
            "attempts": self.attempts,
            "log": self.log,
            **({"stage": self.stage} if self.stage else {}),
        }


class ResultRecord:
    """A record as the JSON object that a file has; its parts are read when they are asked for.

    Collecting reads a record in microseconds, because it reads only the parts that it needs. Keys
    that this version does not know stay in the object.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    @classmethod
    def of_scores(
        cls,
        row: Row,
        timing: RowTiming,
        provenance: Facts,
        *,
        metrics: list[dict[str, Any]],
        remarks: Sequence[str],
        usage: RowUsage,
        contents: Contents,
        environment: Environment,
        tasks: Mapping[str, TaskState],
    ) -> ResultRecord:
        """Return the record of a row that has scores."""
        return cls(
            {
                **_describe_row(row, ResultStatus.DONE, timing=timing, provenance=provenance),
                # Collecting skips what stands between provenance and metrics (result_file).
                "usage": usage.to_json(),
                "metrics": metrics,
                "remarks": list(remarks),
                "contents": contents.to_json(),
                "environment": environment.to_json(),
                "tasks": {name: state.to_json() for name, state in tasks.items()},
            }
        )

    @classmethod
    def of_failure(
        cls, row: Row, timing: RowTiming, provenance: Facts, *, failure: FailureRecord
    ) -> ResultRecord:
        """Return the record of a row that failed."""
        shared = _describe_row(row, ResultStatus.FAILED, timing=timing, provenance=provenance)
        return cls({**shared, "failure": failure.to_json()})

    @property
    def eval_id(self) -> str:
        """The identity of the row."""
        eval_id: str = self.content["eval_id"]
        return eval_id

    @property
    def cells(self) -> dict[str, str]:
        """The cells of the manifest row; raises ValueError if they are none."""
        cells = self.content.get("row")
        if not isinstance(cells, dict) or set(map(type, cells.values())) - {str}:
            raise ValueError("its row is not a manifest row")
        return cells

    @property
    def task_path(self) -> str:
        """The task of the row, for messages; empty if unknown."""
        cells = self.content.get("row")
        return str(cells.get("task_path", "")) if isinstance(cells, dict) else ""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The scores, of a record that was checked; metrics.MetricScore reads them."""
        metrics: list[dict[str, Any]] = self.content["metrics"]
        return metrics

    @property
    def finished(self) -> str:
        """When the evaluation ended, in UTC as ISO 8601; empty if unknown."""
        timing = self.content.get("timing")
        return str(timing.get("finished") or "") if isinstance(timing, dict) else ""

    @property
    def timing(self) -> RowTiming:
        """How long the row took; raises ValueError if a time is damaged."""
        timing = self.content.get("timing")
        return RowTiming.from_json(timing if isinstance(timing, dict) else {})

    @property
    def usage(self) -> RowUsage:
        """What the model did; raises ValueError if that is damaged or unknown."""
        return RowUsage.from_json(self.content.get("usage"))

    @property
    def provenance(self) -> RowProvenance:
        """Where the scores come from; raises ValueError if that is damaged."""
        return RowProvenance.from_json(self.content.get("provenance") or {})

    @property
    def contents(self) -> Contents:
        """What the scores were computed from."""
        return Contents.from_json(self.content.get("contents"))

    @property
    def environment(self) -> Environment:
        """What the scores were computed with."""
        return Environment.from_json(self.content.get("environment"))

    @property
    def tasks(self) -> dict[str, TaskState]:
        """The state of each task and group behind the scores."""
        return read_task_states(self.content.get("tasks"))

    @property
    def model_identity(self) -> LocalIdentity | None:
        """The local model as its provenance describes it; None for other models, or if unknown."""
        provenance = self.content.get("provenance")
        model = provenance.get("model") if isinstance(provenance, dict) else None
        return LocalIdentity.from_json(model)

    @property
    def run_dir(self) -> str:
        """The run directory; empty if there is none, or if it is not known."""
        provenance = self.content.get("provenance")
        return str(provenance.get("run_dir") or "") if isinstance(provenance, dict) else ""

    @property
    def failure(self) -> FailureRecord | None:
        """Why there is no score; None if the record does not say so, or is damaged."""
        failure = self.content.get("failure")
        try:
            return FailureRecord.from_json(failure) if isinstance(failure, dict) else None
        except (TypeError, ValueError):
            return None

    def set_attempts(self, attempts: int) -> None:
        """Say how often the row has failed."""
        self.content["failure"]["attempts"] = attempts

    def set_writing_time(self, seconds: float) -> None:
        """Say how long writing took, if the record has a timing."""
        if "timing" in self.content:
            self.content["timing"]["writing_s"] = round(seconds, 6)


def _describe_row(
    row: Row, status: ResultStatus, timing: RowTiming, provenance: Facts
) -> dict[str, Any]:
    """Return the part of a record that results and failures share."""
    return {
        "schema_version": schema.VERSION,
        "eval_id": row["eval_id"],
        "status": status.value,
        "row": {name: text for name, text in row.cells.items() if name not in SHARD_COLUMNS},
        "timing": timing.to_json(),
        "provenance": dict(provenance),
    }


def _part(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object in an object, empty if the key is missing; ValueError if it is none."""
    return _object(name, content.get(name, {}))


def _object(name: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name} is {content!r}")
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
