"""Hostile programs among honest ones, run by the frameworks' own evaluators in the sandbox.

Each hostile program stands before a right solution, so it passes only if its attack works.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm.manifest.rows import Row
from support import code_rows, human_eval
from support.frameworks import reciting_model
from support.hostile_runs import NUMBER, SECRET, HostileRuns, hostile_runs, look_at_host
from support.hostile_samples import NAMES
from support.program_runs import ProgramRun, human_eval_cache, plant
from support.toy_rows import records

pytestmark = pytest.mark.slow

# A sample may use 4 GiB, which is too much to try on this machine.
HOSTILE = [name for name in NAMES if name not in ("memory", "memory_of_many")]
# Problems whose answers are right, wrong, and do not end.
HONEST = {"right": "", "wrong": "raise ValueError\n", "endless": "while True: pass\n"}
RIGHT = 3


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[HostileRuns]:
    with hostile_runs(tmp_path) as made:
        yield made


def answers(hostile: HostileRuns, solutions: list[str]) -> dict[str, str]:
    """Return an answer to each problem, given their solutions: hostile and honest ones in turn."""
    before = {name: hostile.programs[name] for name in HOSTILE}
    before |= {f"{name} {n}": text for name, text in HONEST.items() for n in range(RIGHT)}
    assert len(before) <= len(solutions)
    return {
        name: text + "\n" + solution
        for (name, text), solution in zip(before.items(), solutions, strict=False)
    }


def manifest(row: Row) -> str:
    return "\n".join([",".join(row.cells), ",".join(row.cells.values())]) + "\n"


def evaluate(run: ProgramRun, row: Row) -> dict[str, float]:
    """Evaluate the planted answers; return the scores by filter."""
    before = look_at_host()
    told = run.evaluate(manifest(row), HF_TOKEN=SECRET, OELLM_SANDBOX_USER=str(NUMBER))
    assert look_at_host() == before
    assert "generate begins" not in told
    assert SECRET not in told
    (record,) = records(run.home / "out").values()
    assert record["environment"]["sandbox"] == "guard"
    return {metric["filter"]: metric["value"] for metric in record["metrics"]}


def test_of_bigcode_are_contained_and_all_others_scored(
    tmp_path: Path, hostile: HostileRuns
) -> None:
    problems = human_eval.problems()
    given = answers(hostile, [each.prompt + each.canonical_solution for each in problems])
    cells = {"model_path": str(reciting_model()), "task_path": "humaneval", "n_shot": ""}
    row = Row({**cells, "eval_suite": "bigcode_eval", "limit": str(len(given))})
    generations = json.dumps([[program] for program in given.values()])
    plant(tmp_path / "out", row, {"generations_humaneval.json": generations})
    run = ProgramRun(tmp_path, {"bigcode_eval": "bigcode_eval"}, human_eval_cache("bigcode_eval"))
    assert evaluate(run, row) == {"none": pytest.approx(RIGHT / len(given))}


def test_of_evalplus_are_contained_and_all_others_scored(
    tmp_path: Path, hostile: HostileRuns
) -> None:
    path = code_rows.write_evalplus(tmp_path / "HumanEvalPlus.jsonl", 100)
    problems = [json.loads(line) for line in path.read_text().splitlines()]
    given = answers(hostile, [each["prompt"] + each["canonical_solution"] for each in problems])
    lines = [json.dumps(problem) + "\n" for problem in problems[: len(given)]]
    path.write_text("".join(lines))
    names = [problem["task_id"] for problem in problems[: len(given)]]
    cells = {"model_path": str(reciting_model()), "task_path": "humaneval", "n_shot": ""}
    row = Row({**cells, "eval_suite": "evalplus", "include_path": str(tmp_path)})
    samples = [
        {"task_id": name, "solution": program}
        for name, program in zip(names, given.values(), strict=True)
    ]
    digest = hashlib.md5("".join(lines).encode()).hexdigest()
    planted = {
        "samples.jsonl": "".join(json.dumps(sample) + "\n" for sample in samples),
        "problems.json": json.dumps({"hash": digest, "problems": names}),
    }
    plant(tmp_path / "out", row, planted)
    run = ProgramRun(tmp_path, {"evalplus": "evalplus-evaluate"}, {})
    expected = pytest.approx(RIGHT / len(given))
    assert evaluate(run, row) == {"base": expected, "plus": expected}
    (result,) = (tmp_path / "out" / "results").glob("*.json")
    passed = json.loads(result.read_bytes())["passed"]
    by_answer = {name: passed[task]["base"] for name, task in zip(given, names, strict=True)}
    assert by_answer == {name: int(name.startswith("right")) for name in given}
