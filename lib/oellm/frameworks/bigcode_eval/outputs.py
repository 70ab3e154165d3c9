"""The files that bigcode-evaluation-harness writes: answers and scores, and what is wrong in them.

Those of the evaluation lie where programs of a model could write, so nothing in them is believed
that the row or the answers say themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core.json_codec import is_finite
from oellm.frameworks.bigcode_eval import results
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import InvalidOutputError
from oellm.frameworks.program_files import describe_usage, read_json
from oellm.manifest.rows import Row
from oellm.runs.environment import Environment, TaskState
from oellm.runs.result_record import RowTiming

# The program puts `_TASK` before the ending.
GENERATIONS = "generations.json"
METRICS = "metrics.json"
# What the program writes as the standard error of a single problem is no JSON.
_NO_STDERR = re.compile(rb'("[^"\\]*_stderr"\s*:\s*)NaN')

Generations = list[list[str]]


class ExpectedCount(NamedTuple):
    """How many problems an output should have: that many or, if not exact, at most that many."""

    problems: int | None
    is_exact: bool

    def fits(self, found: int) -> bool:
        """Return whether a number of problems is as expected; an empty output never is."""
        if self.is_exact:
            return found == self.problems
        return 0 < found <= (self.problems or found)

    def __str__(self) -> str:
        return f"{'' if self.is_exact else '1 to '}{self.problems or 'any number of'}"


def generations_name(task: str) -> str:
    """Return the name of the file with the answers to a task."""
    return f"generations_{task}.json"


def read_generations(output: Path, task: str) -> Generations:
    """Return the programs that the model wrote, by problem.

    Raises InvalidOutputError if the file is damaged or missing.
    """
    found = read_json(output / generations_name(task))
    if not isinstance(found, list) or not all(_is_texts(each) for each in found):
        raise InvalidOutputError(f"{generations_name(task)}: expected lists of texts")
    return found


def require_complete(
    generations: Generations, expected: ExpectedCount, values: Mapping[str, Any]
) -> None:
    """Raise InvalidOutputError unless there are all problems, each with all samples."""
    if not expected.fits(len(generations)):
        raise InvalidOutputError(f"expected {expected} problems, got {len(generations)}")
    n_samples = values["n_samples"]
    for index, samples in enumerate(generations):
        if len(samples) != n_samples:
            raise InvalidOutputError(
                f"problem {index}: expected {n_samples} samples, got {len(samples)}"
            )


def read_metrics(output: Path, task: str) -> dict[str, Any]:
    """Return the file of the scores; raises InvalidOutputError unless it has some of the task.

    Scores of another task, or one that is no finite number, make it invalid. The standard error of
    a single problem is none.
    """
    found = read_json(output / METRICS, lambda data: _NO_STDERR.sub(rb"\1null", data))
    scores = found.get(task) if isinstance(found, dict) else None
    if not isinstance(scores, dict) or found.keys() != {task, "config"}:
        raise InvalidOutputError(f"{METRICS}: expected scores of {task} and of no other task")
    plain = {name: value for name, value in scores.items() if not isinstance(value, (list, dict))}
    if not plain:
        raise InvalidOutputError(f"{METRICS}: it has no scores of {task}")
    for name, value in plain.items():
        if value is None and name.endswith("_stderr"):
            continue
        if not is_finite(value):
            raise InvalidOutputError(f"{METRICS}: {name} of {task} is {value!r}")
        if name.startswith("pass@") and not 0 <= value <= 1:
            raise InvalidOutputError(f"{METRICS}: {name} of {task} is {value}, not from 0 to 1")
    return dict(found)


def make_evaluation(
    row: Row,
    native: dict[str, Any],
    generations: Generations,
    *,
    version: str,
    task_version: str,
    dtype: str,
) -> Evaluation:
    """Return the scores of a row with what they were computed from."""
    task = row.typed.task_path
    scores = [
        score._replace(n_samples=len(generations))
        for score in results.read_scores(task, native[task])
    ]
    requests = sum(map(len, generations))
    samples = _samples(generations) if row.typed.log_samples else []
    return Evaluation(
        # Without `config`: it has the settings of the evaluation, not those of the generation.
        native={task: native[task]},
        scores=scores,
        samples={task: samples} if samples else {},
        timing=RowTiming(),
        usage=describe_usage(row, documents=len(generations), requests=requests),
        environment=Environment(framework_version=version, backend="hf", dtype=dtype),
        tasks={task: TaskState(version=task_version)},
    )


def _samples(generations: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return the answers by problem; the program does not tell which of them passed."""
    return [
        {"doc_id": index, "generations": list(programs)}
        for index, programs in enumerate(generations)
    ]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
