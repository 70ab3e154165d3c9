"""Result and failure files of a run directory: writing, checking, setting aside.

A result is the framework's own result at top level plus the key `oellm`, which schema.json
describes in its table `result`.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oellm import atomic, json_codec

Result = dict[str, Any]


class ResultStore:
    """The directories results/, failures/ and samples/ below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def result_path(self, eval_id: str) -> Path:
        """Return where the result of a row is."""
        return self.directory / "results" / f"{eval_id}.json"

    def failure_path(self, eval_id: str) -> Path:
        """Return where the failure of a row is."""
        return self.directory / "failures" / f"{eval_id}.json"

    def samples_path(self, eval_id: str) -> Path:
        """Return where the samples of a row are."""
        return self.directory / "samples" / f"{eval_id}.jsonl"

    def read_result(self, eval_id: str) -> Any:
        """Return what a row's result file holds.

        Raises FileNotFoundError where there is none, ValueError where it is not JSON.
        """
        return json_codec.loads(self.result_path(eval_id).read_bytes())

    def valid_result(self, eval_id: str) -> Result | None:
        """Return the result of a row, or None where there is none that is valid."""
        result = _load(self.result_path(eval_id))
        return result if result is not None and not problem(result, eval_id) else None

    def set_aside(self, eval_id: str) -> Path | None:
        """Rename the result file of a row; return its new path, None where there is no file."""
        path = self.result_path(eval_id)
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        aside = path.with_name(f"{path.name}.invalid-{stamp}")
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            return None
        return aside

    def write_result(self, result: Result) -> None:
        """Write a result, read it back, and remove the failure of an earlier attempt.

        Raises ValueError where what was read back is not valid.
        """
        eval_id = result["oellm"]["eval_id"]
        path = self.result_path(eval_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_file(path, json_codec.dumps(result, indent=True) + b"\n")
        written = _load(path)
        if reason := problem(written, eval_id) if written else "it is not readable":
            self.set_aside(eval_id)
            raise ValueError(f"the result was written, but {reason}")
        self.failure_path(eval_id).unlink(missing_ok=True)

    def write_failure(self, record: Result) -> None:
        """Write the record of a failed attempt, counting the attempts before it."""
        path = self.failure_path(record["oellm"]["eval_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _load(path) or {}
        attempts = before.get("oellm", {}).get("failure", {}).get("attempts", 0)
        record["oellm"]["failure"]["attempts"] = attempts + 1
        atomic.write_file(path, json_codec.dumps(record, indent=True) + b"\n")

    def write_samples(self, eval_id: str, samples: Mapping[str, list[Any]]) -> None:
        """Write one JSON line per document and task, each with its task's name."""
        path = self.samples_path(eval_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            json_codec.dumps({"task": task, **sample}) + b"\n"
            for task, documents in samples.items()
            for sample in documents
        )
        atomic.write_file_with(path, lambda stream: stream.writelines(lines))


def problem(result: Any, eval_id: str | None = None) -> str:
    """Return what makes a result invalid, empty where it is valid.

    Valid: our record says done, its eval_id is the expected one, there is at least one metric,
    and the value of every metric is a finite number.
    """
    record = result.get("oellm") if isinstance(result, dict) else None
    if not isinstance(record, dict):
        return "it has no key oellm"
    if eval_id is not None and record.get("eval_id") != eval_id:
        return f"its eval_id is {record.get('eval_id')!r}"
    if record.get("status") != "done":
        return f"its status is {record.get('status')!r}"
    metrics = record.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return "it has no metrics"
    for metric in metrics:
        value = metric.get("value") if isinstance(metric, dict) else None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            name = metric.get("metric") if isinstance(metric, dict) else metric
            return f"the value of {name} is {value!r}"
    return ""


def _load(path: Path) -> Result | None:
    try:
        loaded = json_codec.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
