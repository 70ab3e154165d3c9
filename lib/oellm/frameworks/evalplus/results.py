"""Reads the results of evalplus: *eval_results.json.

They have the outcome of every sample, but neither scores nor the model. We compute pass@k as
evalplus prints it, and read model, backend and temperature from the file's name, which
evalplus.codegen gives to its samples (`org--model_vllm_temp_0.0_eval_results.json`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from oellm.frameworks.reading import native_cells, pass_at_k, values
from oellm.frameworks.reading.pass_at_k import Tally
from oellm.frameworks.reading.values import Object, get_text
from oellm.metrics.scored_rows import MetricScore, ScoredRow

_NAME = re.compile(r"(?P<model>.+)_(?P<backend>[a-z]+)_temp_(?P<temperature>[0-9.]+)\Z")
_ENDING = re.compile(r"[_.]?eval_results\.json\Z")
_TASKS = {"HumanEval": "humaneval", "Mbpp": "mbpp"}
_KS = (1, 10, 100)
_PASSED = "pass"


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return the row of a result; None if the document is no result of evalplus.

    Raises ValueError if it is damaged, or the file's name does not give the model.
    """
    if not isinstance(document.get("eval"), dict) or "hash" not in document:
        return None
    problems = pass_at_k.require_samples(document["eval"], "base_status")
    prefixes = {problem.partition("/")[0] for problem in problems}
    task = _TASKS.get(prefixes.pop(), "") if len(prefixes) == 1 else ""
    if not task:
        raise ValueError("eval: expected problems of HumanEval or Mbpp only")
    cells = {"task_path": task, "n_shot": "0", "eval_suite": "evalplus", **_of_name(path)}
    finished = values.parse_local_time(get_text(document, "date")) or values.find_finish_time(path)
    return [
        ScoredRow(
            native_cells.make_row(cells), _metrics(task, problems), finished=finished, run_dir=path
        )
    ]


def _of_name(path: str) -> dict[str, str]:
    """Return the cells that the file's name gives.

    The name has `--` for each slash of the model; evalplus strips dots and slashes from its ends.
    """
    name = _ENDING.sub("", os.path.basename(path))
    match = _NAME.fullmatch(name)
    if not match:
        return {"model_path": native_cells.format_model_path(name.replace("--", "/"), {})}
    return {
        "model_path": native_cells.format_model_path(match["model"].replace("--", "/"), {}),
        "backend": "" if match["backend"] == "hf" else match["backend"],
        "gen_kwargs": f"temperature={match['temperature']}",
    }


def _metrics(task: str, problems: Mapping[str, list[Object]]) -> list[MetricScore]:
    """Return pass@k with the benchmark's own tests (base), and with evalplus's too (plus)."""
    statuses: dict[str, tuple[str, ...]] = {"base": ("base_status",)}
    # With --base_only, the status is null.
    if all(sample.get("plus_status") for samples in problems.values() for sample in samples):
        statuses["plus"] = ("base_status", "plus_status")
    found = []
    for tests, names in statuses.items():
        tallies = [
            Tally(
                sum(all(sample[name] == _PASSED for name in names) for sample in samples),
                len(samples),
            )
            for samples in problems.values()
        ]
        for k, rate in pass_at_k.compute_pass_rates(tallies, _KS).items():
            found.append(
                pass_at_k.make_score(task, k, rate=rate, n_samples=len(tallies), tests=tests)
            )
    return found
