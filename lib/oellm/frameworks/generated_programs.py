"""The programs that a model has written, as launchers keep them: one a line, and their problems.

`samples.jsonl` has objects with `task_id` and `solution`; `problems.json` has the names of the
problems in their order, and the digest of the file that they were read from.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from oellm.core import json_codec
from oellm.core.regular_files import open_regular
from oellm.frameworks.program import InvalidOutputError
from oellm.frameworks.program_files import read_json

SAMPLES = "samples.jsonl"
_PROBLEMS = "problems.json"

# Each sample's program, by problem and in the order in which they were generated.
Samples = dict[str, list[str]]


class UsedProblems(NamedTuple):
    """The problems of a stage.

    Attributes:
        names: Their names, in their order.
        hash: The digest of the file with them.
    """

    names: list[str]
    hash: str


class Generated(NamedTuple):
    """What the first stage wrote.

    Attributes:
        problems: The names of the problems, in their order.
        hash: The digest of the file with the problems.
        samples: The programs of each problem.
    """

    problems: list[str]
    hash: str
    samples: Samples


def read_problems(output: Path) -> UsedProblems:
    """Return the problems of a stage; raises InvalidOutputError if it does not tell them."""
    facts = read_json(output / _PROBLEMS)
    try:
        return UsedProblems([str(name) for name in facts["problems"]], str(facts["hash"]))
    except (LookupError, TypeError) as error:
        raise InvalidOutputError(f"{_PROBLEMS}: {error!r}") from None


def read_generated(output: Path) -> Generated:
    """Return the answers; raises InvalidOutputError if a file is damaged or missing."""
    problems = read_problems(output)
    samples: Samples = {}
    try:
        with open_regular(output / SAMPLES) as lines:
            for line in lines:
                sample = json_codec.loads(line)
                samples.setdefault(sample["task_id"], []).append(sample["solution"] + "")
    except FileNotFoundError:
        raise InvalidOutputError(f"it has no file {SAMPLES}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidOutputError(f"{SAMPLES}: {error!r}") from None
    return Generated(problems.names, problems.hash, samples)


def require_complete(generated: Generated, n_samples: int) -> None:
    """Raise InvalidOutputError unless every problem has all samples, and no other problem any."""
    problems, samples = generated.problems, generated.samples
    if not problems or samples.keys() != set(problems):
        odd = sorted(samples.keys() ^ set(problems))[:3]
        raise InvalidOutputError(f"expected samples of {len(problems)} problems; see {odd}")
    for problem, found in samples.items():
        if len(found) != n_samples:
            raise InvalidOutputError(f"{problem}: expected {n_samples} samples, got {len(found)}")
