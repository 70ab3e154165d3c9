"""The files that evalplus writes, as its launcher names them: answers, and outcomes of each.

Those of the evaluation lie where programs of a model could write, so nothing in them is believed
that the answers say themselves.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from oellm.frameworks.evalplus import results
from oellm.frameworks.generated_programs import Generated
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import InvalidOutputError
from oellm.frameworks.program_files import describe_usage, read_json
from oellm.frameworks.reading import pass_at_k
from oellm.manifest.rows import Row
from oellm.runs.environment import Environment, TaskState
from oellm.runs.result_record import RowTiming

_RESULTS = "eval_results.json"
_STATUSES = ("pass", "fail", "timeout")


class Outcomes(NamedTuple):
    """What the second stage found.

    Attributes:
        hash: The digest of the file with the problems.
        samples: The samples of each problem, with base_status and plus_status.
        date: When the evaluation was, as evalplus writes it.
    """

    hash: str
    samples: dict[str, list[dict[str, Any]]]
    date: str


def read_outcomes(output: Path) -> Outcomes:
    """Return the outcomes; raises InvalidOutputError if one is missing or is none."""
    found = _read_object(output / _RESULTS)
    try:
        samples = pass_at_k.require_samples(found["eval"], "base_status")
        outcomes = Outcomes(str(found["hash"]), samples, str(found.get("date", "")))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InvalidOutputError(f"{_RESULTS}: {error}") from None
    for problem, each in outcomes.samples.items():
        for sample in each:
            for name in ("base_status", "plus_status"):
                if sample.get(name) not in _STATUSES:
                    raise InvalidOutputError(f"{problem}: {name} is {sample.get(name)!r}")
    return outcomes


def require_same(generated: Generated, outcomes: Outcomes) -> None:
    """Raise InvalidOutputError unless the outcomes are those of the answers that were generated."""
    if generated.hash != outcomes.hash:
        raise InvalidOutputError("the evaluation read other problems than the generation")
    evaluated = {
        problem: [sample.get("solution") for sample in samples]
        for problem, samples in outcomes.samples.items()
    }
    if evaluated != generated.samples:
        raise InvalidOutputError("the evaluation read other answers than those that were generated")


def make_evaluation(
    row: Row, generated: Generated, outcomes: Outcomes, *, version: str, dtype: str
) -> Evaluation:
    """Return the scores of a row with what they were computed from."""
    task, count = row.typed.task_path, len(generated.problems)
    samples = [sample for each in outcomes.samples.values() for sample in each]
    return Evaluation(
        native={"hash": outcomes.hash, "date": outcomes.date, "passed": _count(outcomes)},
        scores=results.compute_scores(task, outcomes.samples, {}),
        samples={task: samples} if row.typed.log_samples else {},
        timing=RowTiming(),
        usage=describe_usage(row, documents=count, requests=len(samples)),
        environment=Environment(framework_version=version, backend=row.typed.backend, dtype=dtype),
        tasks={task: TaskState(version=version, hash=outcomes.hash)},
    )


def _count(outcomes: Outcomes) -> dict[str, dict[str, int]]:
    """Return how many samples of each problem have passed: all, with base tests, with plus too."""
    return {
        problem: {
            "samples": len(samples),
            "base": Counter(sample["base_status"] for sample in samples)["pass"],
            "plus": sum(
                sample["base_status"] == sample["plus_status"] == "pass" for sample in samples
            ),
        }
        for problem, samples in outcomes.samples.items()
    }


def _read_object(path: Path) -> Any:
    if not isinstance(found := read_json(path), dict):
        raise InvalidOutputError(f"{path.name}: expected an object")
    return found
