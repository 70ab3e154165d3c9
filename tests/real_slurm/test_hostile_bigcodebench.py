"""Hostile programs as answers to bigcodebench, scored by its own evaluator in a real container.

The evaluator's environment is bound into the container. A hostile program is put before a right
solution, so that it passes only if its attack works. Those of other evaluators are in
tests/frameworks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oellm.clusters.cluster import Cluster
from oellm.sandbox.contained import Contained, Limits, SampleLimits
from oellm.sandbox.layers import find_layers
from oellm.sandbox.running import run_contained
from support import code_rows, human_eval
from support.frameworks import framework_environment
from support.hostile_runs import NUMBER, hostile_runs, look_at_host

# Each sample takes seconds, and has a manager of its own, with a process and sockets to attack.
HOSTILE = ("kill_parent", "shared_memory", "forged_metrics", "exit_0")
RIGHT = 2
SCRIPT = (
    "cp /in/samples.jsonl /out; exec $venv/bin/bigcodebench.evaluate --split complete "
    "--subset full --samples /out/samples.jsonl --execution local --pass_k 1,5 --parallel 2"
)


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_exactly_the_right_ones_pass(image: Path, tmp_path: Path) -> None:
    venv = framework_environment("bigcodebench-evaluate")
    base = Path(os.path.realpath(venv / "bin" / "python")).parent.parent
    problems = human_eval.problems()[: len(HOSTILE) + RIGHT]
    (tmp_path / "out").mkdir()
    with hostile_runs(tmp_path) as runs:
        attacks = [runs.programs[name] for name in HOSTILE] + [""] * RIGHT
        answers = [
            {
                "task_id": problem.task_id.replace("HumanEval", "BigCodeBench"),
                "solution": f"{attack}\n{problem.prompt}{problem.canonical_solution}",
            }
            for problem, attack in zip(problems, attacks, strict=True)
        ]
        samples = write_lines(tmp_path / "samples.jsonl", answers)
        rows = code_rows.write_bigcodebench(tmp_path / "problems.jsonl", limit=len(answers))
        contained = Contained(
            argv=("sh", "-ec", SCRIPT),
            image=image,
            inputs={
                samples: "/in/samples.jsonl",
                rows: "/in/problems.jsonl",
                **{path: str(path) for path in (venv, base)},
            },
            output=tmp_path / "out",
            env={"venv": str(venv), "BIGCODEBENCH_OVERRIDE_PATH": "/in/problems.jsonl"},
            limits=Limits(500, memory_bytes=6 << 30, sample=SampleLimits(address_space_bytes=0)),
        )
        before = look_at_host()
        layers = find_layers(Cluster({"sandbox_user": str(NUMBER)}, {}), image)
        end = run_contained(contained, layers, tmp_path / "log")
        assert look_at_host() == before
    assert end.status == 0, (tmp_path / "log").read_text()[-3000:]
    found = json.loads((tmp_path / "out" / "samples_eval_results.json").read_text())["eval"]
    passed = {task for task, (result,) in found.items() if result["status"] == "pass"}
    assert passed == {answer["task_id"] for answer in answers[len(HOSTILE) :]}
    rates = json.loads((tmp_path / "out" / "samples_pass_at_k.json").read_text())
    assert rates["pass@1"] == pytest.approx(RIGHT / len(answers))
