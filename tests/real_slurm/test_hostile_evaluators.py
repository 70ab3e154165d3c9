"""Hostile programs as answers to HumanEval, scored by the frameworks' own evaluators.

The evaluators' environments are bound into a real container. A hostile program is put before a
right solution, so that it passes only if its attack works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oellm.clusters.cluster import Cluster
from oellm.sandbox.contained import Contained, ContainedEnd, Layers, Limits, SampleLimits
from oellm.sandbox.layers import find_layers
from oellm.sandbox.running import run_contained
from support import code_rows, human_eval
from support.frameworks import framework_environment
from support.hostile_runs import NUMBER, HostileRuns, hostile_runs, look_at_host
from support.hostile_samples import NAMES
from support.program_runs import human_eval_cache

N_HONEST = 6
# Each sample of bigcodebench has a manager of its own, with a process and sockets, and takes long.
OF_BIGCODEBENCH = ["kill_parent", "kill_all", "exit_0", "forged_metrics", "secrets", "sockets"]


class Evaluator(NamedTuple):
    """A framework's evaluator in a container."""

    image: Path
    layers: Layers
    runs: HostileRuns

    def evaluate(
        self, name: str, script: str, files: dict[str, Path], *, address_space_gib: int, **env: str
    ) -> tuple[ContainedEnd, Path]:
        """Run a shell script that finds an environment in $venv and files below /in."""
        venv = framework_environment(name)
        base = Path(os.path.realpath(venv / "bin" / "python")).parent.parent
        output = self.runs.directory / "out"
        output.mkdir()
        contained = Contained(
            argv=("sh", "-ec", script),
            image=self.image,
            inputs={
                **{path: f"/in/{name}" for name, path in files.items()},
                **{path: str(path) for path in (venv, base)},
            },
            output=output,
            env={"venv": str(venv), **env},
            limits=Limits(
                500,
                memory_bytes=6 << 30,
                sample=SampleLimits(
                    memory_bytes=512 << 20, address_space_bytes=address_space_gib << 30
                ),
            ),
        )
        before = look_at_host()
        end = run_contained(contained, self.layers, self.runs.directory / "log")
        assert look_at_host() == before
        assert end.status == 0, (self.runs.directory / "log").read_text()[-3000:]
        assert end.refused == ()
        return end, output

    def answers(self, names: list[str], key: str = "") -> list[dict[str, Any]]:
        """Return a solution of each problem: hostile ones first, then right ones."""
        problems = human_eval.problems()[: len(names) + N_HONEST]
        attacks = [f"{self.runs.programs[name]}\n" for name in names] + [""] * N_HONEST
        return [
            {
                "task_id": problem.task_id.replace("HumanEval", key or "HumanEval"),
                "solution": attack + problem.prompt + problem.canonical_solution,
            }
            for problem, attack in zip(problems, attacks, strict=True)
        ]


@pytest.fixture
def evaluator(image: Path, tmp_path: Path) -> Iterator[Evaluator]:
    layers = find_layers(Cluster({"sandbox_user": str(NUMBER)}, {}), image)
    with hostile_runs(tmp_path) as runs:
        yield Evaluator(image, layers, runs)


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def require_right(statuses: dict[str, list[str]], names: list[str]) -> None:
    """Fail unless exactly the honest answers have passed, by the numbers of their problems."""
    passed = {number for number, found in statuses.items() if set(found) == {"pass"}}
    assert passed == {str(len(names) + number) for number in range(N_HONEST)}
    assert not any("pass" in found for number, found in statuses.items() if number not in passed)
    assert len(statuses) == len(names) + N_HONEST


def test_bigcode_scores_exactly_the_honest_ones(evaluator: Evaluator, tmp_path: Path) -> None:
    answers = evaluator.answers(NAMES)
    (tmp_path / "gen.json").write_text(json.dumps([[each["solution"]] for each in answers]))
    cache = Path(human_eval_cache("bigcode_eval")["HF_HOME"])
    end, output = evaluator.evaluate(
        "bigcode_eval",
        # The library `datasets` writes locks beside what it reads.
        "cp -r /in/hf /scratch/hf; exec $venv/bin/python -m bigcode_eval.main --model any "
        f"--tasks humaneval --limit {len(answers)} --n_samples 1 --load_generations_path "
        "/in/gen.json --allow_code_execution --metric_output_path /out/metrics.json",
        {"gen.json": tmp_path / "gen.json", "hf": cache},
        address_space_gib=4,
        HF_HOME="/scratch/hf",
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    assert end.samples == len(answers)
    metrics = json.loads((output / "metrics.json").read_text())["humaneval"]
    assert metrics["pass@1"] == pytest.approx(N_HONEST / len(answers))


def test_evalplus_scores_exactly_the_honest_ones(evaluator: Evaluator, tmp_path: Path) -> None:
    answers = evaluator.answers(NAMES)
    samples = write_lines(tmp_path / "samples.jsonl", answers)
    problems = code_rows.write_evalplus(tmp_path / "problems.jsonl", limit=len(answers))
    _, output = evaluator.evaluate(
        "evalplus-evaluate",
        "cp /in/samples.jsonl /out; exec $venv/bin/evalplus.evaluate --dataset humaneval "
        "--samples /out/samples.jsonl --parallel 4",
        {"samples.jsonl": samples, "problems.jsonl": problems},
        address_space_gib=4,
        HUMANEVAL_OVERRIDE_PATH="/in/problems.jsonl",
    )
    found = json.loads((output / "samples_eval_results.json").read_text())["eval"]
    statuses = {
        task.partition("/")[2]: [result["base_status"], result["plus_status"]]
        for task, (result,) in found.items()
    }
    require_right(statuses, NAMES)


def test_bigcodebench_scores_exactly_the_honest_ones(evaluator: Evaluator, tmp_path: Path) -> None:
    answers = evaluator.answers(OF_BIGCODEBENCH, "BigCodeBench")
    samples = write_lines(tmp_path / "samples.jsonl", answers)
    problems = code_rows.write_bigcodebench(tmp_path / "problems.jsonl", limit=len(answers))
    _, output = evaluator.evaluate(
        "bigcodebench-evaluate",
        "cp /in/samples.jsonl /out; exec $venv/bin/bigcodebench.evaluate --split complete "
        "--subset full --samples /out/samples.jsonl --execution local --pass_k 1,5 --parallel 2",
        {"samples.jsonl": samples, "problems.jsonl": problems},
        address_space_gib=0,
        BIGCODEBENCH_OVERRIDE_PATH="/in/problems.jsonl",
    )
    found = json.loads((output / "samples_eval_results.json").read_text())["eval"]
    statuses = {task.partition("/")[2]: [result["status"]] for task, (result,) in found.items()}
    require_right(statuses, OF_BIGCODEBENCH)
    rates = json.loads((output / "samples_pass_at_k.json").read_text())
    assert rates["pass@1"] == pytest.approx(N_HONEST / len(answers))
