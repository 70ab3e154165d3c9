"""What a result was computed from, to tell whether another result of its row is of the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from oellm import frameworks
from oellm.core.regular_files import read_regular
from oellm.manifest.cells import read_cell
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.contents import Contents, find_changes
from oellm.runs.environment import TaskState
from oellm.runs.result_file import parse_result, read_record


class ResultState(NamedTuple):
    """What a result was computed from; what is unknown does not count.

    Attributes:
        task: the task of its row, for messages.
        weights: the digest of samples of a local model's weights; empty if unknown.
        files: the digests of a local model's other files.
    """

    task: str
    contents: Contents
    tasks: Mapping[str, TaskState]
    weights: str = ""
    files: Mapping[str, str] = MappingProxyType({})

    def find_changes(self, newer: ResultState) -> list[str]:
        """Return what differs in a newer result of the same row."""
        changes = find_changes(self.contents, newer.contents, self.task)
        if not (self.contents.model and newer.contents.model):
            if self.weights and newer.weights and self.weights != newer.weights:
                changes.append("weights changed")
            if any(newer.files.get(name, digest) != digest for name, digest in self.files.items()):
                changes.append("configuration or tokenizer of the model changed")
        for name, state in self.tasks.items():
            other = newer.tasks.get(name, TaskState())
            text = f"task {name}: version {state.version} → {other.version}"
            if state.version and other.version and state.version != other.version:
                # The contents have that of the row's own task.
                changes += [text] if text not in changes else []
            elif not changes and state.hash and other.hash and state.hash != other.hash:
                changes.append(f"task {name}: documents or prompts changed")
        return changes


def of_scored_row(scored: ScoredRow) -> ResultState:
    """Return what scores were computed from, as far as they tell."""
    return ResultState(scored.row["task_path"], scored.contents, tasks=scored.tasks)


def read_state(path: str) -> ResultState:
    """Read what a result of ours was computed from; raises OSError or ValueError.

    Results of earlier versions have no contents, but digests in their provenance.
    """
    result = parse_result(read_regular(path))
    record = read_record(result)
    provenance = record.content.get("provenance")
    model = provenance.get("model") if isinstance(provenance, dict) else None
    facts: dict[str, Any] = model if isinstance(model, dict) else {}
    files = facts.get("files")
    return ResultState(
        task=record.task_path,
        contents=record.contents,
        tasks=record.tasks or _native_states(result, str(record.cells.get("eval_suite", ""))),
        weights=str(facts.get("sample_sha256") or ""),
        files=files if isinstance(files, dict) else {},
    )


def _native_states(result: Mapping[str, Any], framework: str) -> Mapping[str, TaskState]:
    """Return the states of tasks that the framework's own result tells."""
    reader = frameworks.native_results(read_cell("eval_suite", framework).value)
    try:
        return reader.task_states(result) if reader else {}
    except (TypeError, ValueError, LookupError, AttributeError):
        return {}
