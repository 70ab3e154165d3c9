"""Rows of data sets about code, for frameworks that run without any hub.

The rows are made: from the problems of HumanEval, whose prompts, solutions and tests are true, and
from small_programs.py. Where the schema wants test inputs that the published data set has in
thousands (evalplus), they are those of the problem's own test. So scores say something about the
pipeline, not about a model.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support import human_eval
from support.hub import Hub
from support.hub_content import write_dataset
from support.human_eval import Problem
from support.small_programs import SMALL_PROGRAMS


def serve_human_eval(hub: Hub, directory: Path, limit: int = 164) -> None:
    """Serve openai/openai_humaneval, also by its old name, under which bigcode asks for it."""
    rows = [problem._asdict() for problem in human_eval.problems()[:limit]]
    write_dataset(directory, "openai_humaneval", "openai_humaneval", rows, ("test",))
    hub.add_dataset("openai/openai_humaneval", directory)
    hub.renamed["openai_humaneval"] = "openai/openai_humaneval"


def serve_mbpp(hub: Hub, directory: Path) -> None:
    """Serve google-research-datasets/mbpp, also by its old name, under which bigcode asks for it.

    bigcode wants 500 problems, so the twelve are there again and again.
    """
    rows = [
        {
            "task_id": number,
            "text": program.text,
            "code": program.code,
            "test_list": program.tests,
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for number, program in zip(range(11, 511), itertools.cycle(SMALL_PROGRAMS), strict=False)
    ]
    write_dataset(directory, "full", "full", rows, ("train", "test", "validation", "prompt"))
    hub.add_dataset("google-research-datasets/mbpp", directory)
    hub.renamed["mbpp"] = "google-research-datasets/mbpp"


def write_evalplus_mbpp(path: Path) -> Path:
    """Write the twelve small programs for MBPP_OVERRIDE_PATH of evalplus."""
    return _write_lines(
        path,
        (
            {
                # These numbers are none of those whose inputs evalplus turns into tuples.
                "task_id": f"Mbpp/{number}",
                "prompt": f'"""\n{program.text}\n{program.tests[0]}\n"""\n',
                "entry_point": program.name,
                "canonical_solution": program.code,
                "contract": "",
                "assertion": "\n".join(program.tests),
                "base_input": [arguments for arguments, _ in program.cases[:-1]],
                "plus_input": [program.cases[-1][0]],
                "atol": 0,
            }
            for number, program in enumerate(SMALL_PROGRAMS, 901)
        ),
    )


def write_evalplus(path: Path, limit: int = 12) -> Path:
    """Write the first problems for HUMANEVAL_OVERRIDE_PATH of evalplus.

    The last input of a problem's test is the only one of its plus_input, the others are its
    base_input. Problems whose test has fewer than two plain inputs are left out; none of the
    first 12 is.
    """
    rows = []
    for problem in human_eval.problems():
        inputs = list(_inputs(problem.test))
        if len(inputs) >= 2:
            made = {"contract": "", "base_input": inputs[:-1], "plus_input": inputs[-1:], "atol": 0}
            rows.append(problem._asdict() | made)
    return _write_lines(path, rows[:limit])


def write_bigcodebench(path: Path, limit: int = 12) -> Path:
    """Write the first problems for BIGCODEBENCH_OVERRIDE_PATH: their tests as a unittest class."""
    return _write_lines(path, map(_bigcodebench_row, human_eval.problems()[:limit]))


def _bigcodebench_row(problem: Problem) -> dict[str, Any]:
    name = problem.entry_point
    signature = re.search(rf"def {name}\(.*?:\n", problem.prompt, re.DOTALL)
    assert signature, problem
    test = (
        f"import unittest\n{problem.test}\nclass TestCases(unittest.TestCase):\n"
        f"    def test_check(self):\n        check({name})\n"
    )
    return {
        "task_id": problem.task_id.replace("HumanEval", "BigCodeBench"),
        "complete_prompt": problem.prompt,
        "instruct_prompt": problem.prompt,
        "canonical_solution": problem.canonical_solution,
        "code_prompt": problem.prompt[: signature.end()],
        "test": test,
        "entry_point": name,
        "doc_struct": "{}",
        "libs": "[]",
    }


def _inputs(test: str) -> Iterable[list[Any]]:
    """Yield the arguments of each call of `candidate` that has only plain values."""
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "candidate":
            try:
                arguments = [ast.literal_eval(argument) for argument in node.args]
                json.dumps(arguments)
            except (ValueError, TypeError):
                continue
            yield arguments


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
