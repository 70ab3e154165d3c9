"""The files that bigcodebench writes, as its launcher names them: outcomes and pass rates.

They lie where programs of a model could write, so nothing in them is believed that the generated
programs say themselves; the scores are computed again from the outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core.json_codec import is_finite
from oellm.frameworks.generated_programs import Generated
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.program import InvalidOutputError
from oellm.frameworks.program_files import describe_usage, read_json
from oellm.frameworks.reading import pass_at_k
from oellm.frameworks.reading.pass_at_k import Tally
from oellm.manifest.rows import Row
from oellm.runs.environment import Environment, TaskState
from oellm.runs.result_record import RowTiming

_OUTCOMES, _SCORES = "eval_results.json", "pass_at_k.json"
_STATUSES = ("pass", "fail", "timeout")
# Below this, the machine cannot run the reference solutions, and so no others either.
_MIN_GT_PASS_RATE = 0.99
_SHOWN = 5


class ProblemOutcomes(NamedTuple):
    """What the second stage found.

    Attributes:
        samples: The samples of each problem, with status and details.
        date: When the evaluation was, as bigcodebench writes it.
        reference: The share of the problems' own solutions that passed.
    """

    samples: dict[str, list[dict[str, Any]]]
    date: str
    reference: float


def read_outcomes(output: Path) -> ProblemOutcomes:
    """Return the outcomes; raises InvalidOutputError if one is missing or is none.

    They are invalid, too, if the problems' own solutions fail on the machine.
    """
    scores, found = read_json(output / _SCORES), read_json(output / _OUTCOMES)
    try:
        _require_passing_reference(scores)
        samples = pass_at_k.require_samples(found["eval"], "status")
        outcomes = ProblemOutcomes(
            samples, str(found.get("date", "")), float(scores["gt_pass_rate"])
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidOutputError):
            raise
        raise InvalidOutputError(f"{_OUTCOMES}: {error}") from None
    for problem, each in outcomes.samples.items():
        for sample in each:
            if sample["status"] not in _STATUSES:
                raise InvalidOutputError(f"{problem}: status is {sample['status']!r}")
    return outcomes


def require_same(generated: Generated, problems: Sequence[str], outcomes: ProblemOutcomes) -> None:
    """Raise InvalidOutputError unless the outcomes are those of the programs that were generated.

    `problems` are those that the evaluation read: all that were generated, or some of them.
    """
    if not problems or outcomes.samples.keys() != set(problems):
        raise InvalidOutputError(f"expected outcomes of {len(problems)} problems")
    for problem, samples in outcomes.samples.items():
        programs = generated.samples.get(problem, [])
        found = [str(sample.get("solution", "")) for sample in samples]
        # A calibrated solution begins with what all solutions of the problem have in common.
        if len(found) != len(programs) or not all(map(str.endswith, found, programs)):
            raise InvalidOutputError(f"{problem}: other programs were evaluated than generated")


def make_evaluation(
    row: Row, outcomes: ProblemOutcomes, ks: Sequence[int], *, environment: Environment, digest: str
) -> Evaluation:
    """Return the scores of a row with what they were computed from."""
    task = row.typed.task_path
    tallies = {
        problem: Tally(Counter(each["status"] for each in samples)["pass"], len(samples))
        for problem, samples in outcomes.samples.items()
    }
    rates = pass_at_k.compute_pass_rates(list(tallies.values()), ks)
    samples = [sample for each in outcomes.samples.values() for sample in each]
    return Evaluation(
        native={
            "date": outcomes.date,
            "gt_pass_rate": outcomes.reference,
            "passed": {name: tally._asdict() for name, tally in tallies.items()},
        },
        scores=[
            pass_at_k.make_score(task, k, rate=rate, n_samples=len(tallies), tests="none")
            for k, rate in rates.items()
        ],
        samples={task: samples} if row.typed.log_samples else {},
        timing=RowTiming(),
        usage=describe_usage(row, documents=len(tallies), requests=len(samples)),
        environment=environment,
        tasks={task: TaskState(version=environment.framework_version, hash=digest)},
    )


def _require_passing_reference(scores: Any) -> None:
    rate = scores["gt_pass_rate"]
    if is_finite(rate) and rate >= _MIN_GT_PASS_RATE:
        return
    failed = scores.get("failed_tasks") or []
    named = ", ".join(str(name) for name in failed[:_SHOWN])
    raise InvalidOutputError(
        f"gt_pass_rate is {rate}: the solutions of {len(failed)} problems fail on this machine "
        f"({named}{', …' if len(failed) > _SHOWN else ''}); they need the libraries of "
        "bigcodebench's image, a stack of 10 MiB (ulimit -H -s) and 30 GiB of address space"
    )
