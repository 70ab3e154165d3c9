"""The files that the launcher of lighteval writes for each row: results, samples, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oellm.core.json_codec import is_finite
from oellm.core.regular_files import read_regular
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.lighteval import results
from oellm.frameworks.program import InvalidOutputError, UnfinishedOutputError
from oellm.frameworks.program_files import describe_usage, read_json, read_version
from oellm.frameworks.reading.values import is_count
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.result_record import RowTiming

_RESULTS, _SAMPLES, _ERROR = "results.json", "samples.json", "error.txt"
_DOCUMENTS = "documents.json"


def read_scores(row: Row, output: Path) -> tuple[dict[str, Any], ScoredRow]:
    """Return the results of a row and its scores, as the reader of lighteval's files reads them.

    Raises InvalidOutputError if the row failed, or if a score is missing or no finite number, and
    UnfinishedOutputError if lighteval has not come to it.
    """
    directory = output / row["eval_id"]
    _require_results(directory)
    document = read_json(directory / _RESULTS)
    try:
        found = results.read_scored_rows(document, str(directory / _RESULTS))
    except ValueError as error:
        raise InvalidOutputError(f"{_RESULTS}: {error}") from None
    asked = (row.typed.task_path, str(row.typed.n_shot or 0))
    scored = [each for each in found or () if (each.row["task_path"], each.row["n_shot"]) == asked]
    if not scored or len(scored) != len(found or ()):
        raise InvalidOutputError(f"{_RESULTS}: expected the scores of {'|'.join(asked)}")
    (one,) = scored
    if one.remarks:
        raise InvalidOutputError(f"{_RESULTS}: {'; '.join(one.remarks)}")
    if not one.scores or not all(is_finite(score.value) for score in one.scores):
        raise InvalidOutputError(f"{_RESULTS}: it has no scores of {'|'.join(asked)}")
    return document, one


def make_evaluation(row: Row, output: Path, *, version: str) -> Evaluation:
    """Return the scores of a row with what they were computed from."""
    document, scored = read_scores(row, output)
    samples: dict[str, list[Any]] = {}
    if row.typed.log_samples:
        samples = read_json(output / row["eval_id"] / _SAMPLES)
    counts = _read_counts(output / row["eval_id"] / _DOCUMENTS)
    documents = sum(counts.values())
    ran = read_version(output, version)
    return Evaluation(
        native=document,
        scores=[score._replace(n_samples=counts.get(score.task)) for score in scored.scores],
        samples=samples,
        timing=RowTiming(),
        usage=describe_usage(row, documents=documents, requests=documents),
        environment=scored.environment._replace(framework_version=ran, backend="hf"),
        tasks={name: state._replace(version=ran) for name, state in scored.tasks.items()},
    )


def _read_counts(path: Path) -> dict[str, int]:
    """Return the number of documents of each task; raises InvalidOutputError without one."""
    counts = read_json(path)
    if not isinstance(counts, dict) or not counts or not all(map(is_count, counts.values())):
        raise InvalidOutputError(f"{path.name}: expected the number of documents of each task")
    return counts


def _require_results(directory: Path) -> None:
    """Raise InvalidOutputError, with lighteval's error, unless a row has results."""
    if (directory / _RESULTS).exists():
        return
    try:
        text = read_regular(directory / _ERROR).decode("utf-8", "replace").strip()
    except OSError:
        raise UnfinishedOutputError("lighteval has not come to it") from None
    raise InvalidOutputError(text or "it failed")
