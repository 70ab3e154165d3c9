"""Hostile programs among honest ones, run by the frameworks' own evaluators in real containers.

Each hostile program stands before a right solution, so it passes only if its attack works. Those of
bigcodebench have a file of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oellm.frameworks.lm_eval.evaluator import LmEvalEvaluator
from oellm.frameworks.lm_eval.messages import Call, CallReply, Handle, Usage
from oellm.manifest.rows import Row
from support import code_rows, human_eval
from support.code_metric import EXECUTION
from support.frameworks import reciting_model
from support.hostile_runs import NUMBER, SECRET, HostileRuns, hostile_runs, look_at_host
from support.hostile_samples import NAMES
from support.lm_eval_handles import make_handle
from support.program_runs import ProgramRun, human_eval_cache, plant
from support.toy_rows import records

pytestmark = pytest.mark.usefixtures("tools")

# A sample may use 4 GiB, which is too much to try on this machine.
HOSTILE = [name for name in NAMES if name not in ("memory", "memory_of_many")]
# Problems whose answers are right, wrong, and do not end.
HONEST = {"right": "", "wrong": "raise ValueError\n", "endless": "while True: pass\n"}
RIGHT = 3


# A task of lm-eval with these programs as answers, and a metric that runs them.
TASK_CODE = """

def load(**_):
    import datasets, json, pathlib
    names = json.loads(pathlib.Path(__file__).with_name("names.json").read_text())
    return datasets.DatasetDict({"test": datasets.Dataset.from_dict({"name": names})})


def score(doc, results):
    return {"passed": float(passes(results[0], 5.0))}
"""
TASK = """
task: programs
unsafe_code: true
custom_dataset: !function programs.load
output_type: generate_until
test_split: test
doc_to_text: "{{name}}"
doc_to_target: ""
process_results: !function programs.score
metadata: {version: 1.0}
metric_list: [{metric: passed, aggregation: mean, higher_is_better: true}]
"""


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
    assert record["environment"]["sandbox"] == "container+guard"
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
    images, env = {"bigcode_eval": "bigcode_eval"}, human_eval_cache("bigcode_eval")
    run = ProgramRun(tmp_path, images, env, in_images=True)
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
    run = ProgramRun(tmp_path, {"evalplus": "evalplus-evaluate"}, {}, in_images=True)
    expected = pytest.approx(RIGHT / len(given))
    assert evaluate(run, row) == {"base": expected, "plus": expected}
    (result,) = (tmp_path / "out" / "results").glob("*.json")
    passed = json.loads(result.read_bytes())["passed"]
    by_answer = {name: passed[task]["base"] for name, task in zip(given, names, strict=True)}
    assert by_answer == {name: int(name.startswith("right")) for name in given}


class Reciter:
    """A model of lm-eval that gives these answers, in their order."""

    def __init__(self, given: list[str]) -> None:
        self._given = given

    def wait_for_model(self) -> Handle:
        return make_handle()

    def request_reply(self, call: Call, is_last: bool) -> CallReply:
        assert is_last
        return CallReply(self._given, Usage(), {}, environment="", generators=b"")


def test_of_lm_eval_are_contained_and_all_others_scored(
    tmp_path: Path, hostile: HostileRuns
) -> None:
    given = answers(hostile, ["assert sorted([2, 1]) == [1, 2]"] * 100)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "names.json").write_text(json.dumps(list(given)))
    (tasks / "programs.py").write_text(EXECUTION + TASK_CODE)
    (tasks / "programs.yaml").write_text(TASK)
    cells = {"model_path": str(reciting_model()), "task_path": "programs", "n_shot": "0"}
    row = Row({**cells, "include_path": str(tasks), "log_samples": "true"})
    evaluator = LmEvalEvaluator(print)
    evaluator.prepare([row])
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    evaluator.generate(row, Reciter(list(given.values())), recorded)
    names = [str(path.relative_to(recorded)) for path in recorded.rglob("*") if path.is_file()]
    plant(tmp_path / "out", row, {name: (recorded / name).read_text() for name in names})
    run = ProgramRun(tmp_path, {"lm_eval": "lm_eval"}, {}, in_images=True)
    assert evaluate(run, row) == {"none": pytest.approx(RIGHT / len(given))}
    (samples,) = (tmp_path / "out" / "samples").iterdir()
    found = {each["doc"]["name"]: each["passed"] for each in read_lines(samples)}
    assert found == {name: float(name.startswith("right")) for name in given}


def read_lines(path: Path) -> list[Any]:
    return list(map(json.loads, path.read_text().splitlines()))
