"""A stand-in for the metric code_eval of `evaluate`, which lm-eval's code tasks load from the hub.

The hub of Hugging Face has the original, and no package does. This one has its name, its arguments
and what it returns, and like it runs each program by a function `unsafe_execute` in a process of
its own, which is where the sandbox takes hold. It protects nothing by itself.
"""

from __future__ import annotations

from pathlib import Path

from support.hub import Hub

METRIC = """
import multiprocessing
import os
from collections import defaultdict

import datasets
import evaluate
import numpy

from .execute import check_correctness


class CodeEval(evaluate.Metric):
    def _info(self):
        features = datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("string")),
                "references": datasets.Value("string"),
            }
        )
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references, k=[1, 10, 100], num_workers=4, timeout=3.0):
        if os.environ.get("HF_ALLOW_CODE_EVAL", "0") != "1":
            raise ValueError("HF_ALLOW_CODE_EVAL is not 1")
        results = defaultdict(list)
        for task, (programs, test) in enumerate(zip(predictions, references)):
            for number, program in enumerate(programs):
                found = check_correctness(f"{program}\\n{test}", timeout, task, number)
                results[task].append((number, found))
        totals = [len(found) for found in results.values()]
        right = [sum(f["passed"] for _, f in found) for found in results.values()]
        chances = {
            f"pass@{n}": numpy.mean([pass_at(n, *counts) for counts in zip(totals, right)])
            for n in k
            if min(totals) >= n
        }
        return chances, results


def pass_at(k, total, right):
    if total - right < k:
        return 1.0
    return 1.0 - numpy.prod(1.0 - k / numpy.arange(total - right + 1, total + 1))
"""

EXECUTE = """
import multiprocessing


def check_correctness(check_program, timeout, task_id, completion_id):
    manager = multiprocessing.Manager()
    result = manager.list()
    process = multiprocessing.Process(
        target=unsafe_execute, args=(check_program, result, timeout)
    )
    process.start()
    process.join(timeout=timeout + 1)
    if process.is_alive():
        process.kill()
    found = result[0] if result else "timed out"
    return {
        "task_id": task_id,
        "passed": found == "passed",
        "result": found,
        "completion_id": completion_id,
    }


def unsafe_execute(check_program, result, timeout):
    try:
        exec(check_program, {})
        result.append("passed")
    except BaseException as error:
        result.append(f"failed: {error}")
"""


def serve_code_eval(hub: Hub, directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "code_eval.py").write_text(METRIC)
    (directory / "execute.py").write_text(EXECUTE)
    hub.add_metric("code_eval", directory)
