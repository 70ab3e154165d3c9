"""A metric of `evaluate` with the name and the ways of code_eval, for hubs without a network.

Like that, it refuses to run without HF_ALLOW_CODE_EVAL, and runs each program in a process whose
target is named `unsafe_execute`, which is how the sandbox recognises it.
"""

from __future__ import annotations

from pathlib import Path

from support.hub import Hub

NAME = "code_eval"
# Also for the code of a task: whether a program ends without an exception.
EXECUTION = """
import multiprocessing


def unsafe_execute(program, passed):
    exec(program, {})
    passed.append(True)


def passes(program, seconds):
    manager = multiprocessing.Manager()
    passed = manager.list()
    process = multiprocessing.Process(target=unsafe_execute, args=(program, passed))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
    return len(passed) == 1
"""
_SCRIPT = (
    "import math\nimport os\n\nimport datasets\nimport evaluate\n"
    + EXECUTION
    + """

def estimate(n, right, k):
    return 1.0 if n - right < k else 1.0 - math.comb(n - right, k) / math.comb(n, k)


class CodeEval(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("string")),
            "references": datasets.Value("string"),
        }
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references, k=(1,), timeout=5.0):
        if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
            raise ValueError("code may not run: HF_ALLOW_CODE_EVAL is not 1")
        counts = [
            (len(programs), sum(passes(f"{each}\\n{test}", timeout) for each in programs))
            for programs, test in zip(predictions, references)
        ]
        found = {
            f"pass@{number}": sum(estimate(n, right, number) for n, right in counts) / len(counts)
            for number in k
            if all(n >= number for n, _ in counts)
        }
        return found, {}
"""
)


def serve_code_metric(hub: Hub, directory: Path) -> None:
    """Serve the metric under the name of the real one."""
    directory.mkdir(parents=True)
    (directory / f"{NAME}.py").write_text(_SCRIPT)
    hub.add_metric(NAME, directory)
