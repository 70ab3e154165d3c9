"""Reads the results of evalplus: *eval_results.json.

They have the outcome of every sample, but not the model, and before evalplus 0.4 no scores. We
compute pass@k as evalplus prints it, and read model, backend and temperature from the file's name,
which evalplus.codegen gives to its samples (`org--model_vllm_temp_0.0_eval_results.json`), or from
the directory's name if the samples were in a directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from oellm.core.json_codec import is_finite
from oellm.frameworks.reading import native_cells, pass_at_k, values
from oellm.frameworks.reading.pass_at_k import PassRate, Tally
from oellm.frameworks.reading.values import Object, get_objects, get_text
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.runs.environment import Environment, TaskState

# What came before: `.raw` samples are as the model wrote them, `-sanitized` ones were cut to code.
# Each of these has scores of its own.
_NAME = re.compile(
    r"(?P<model>.+?)(?:_(?P<backend>[a-z][a-z0-9]*)_temp_(?P<temperature>[0-9]+(?:\.[0-9]+)*))?"
    r"(?P<raw>\.raw)?(?P<sanitized>[-_.]sanitized)?(?P<calibrated>[-_]calibrated)?",
    re.DOTALL,
)
_BEFORE = ("raw", "sanitized", "calibrated")
_ENDING = re.compile(r"[_.]?eval_results\.json\Z")
_TASKS = {"HumanEval": "humaneval", "Mbpp": "mbpp"}
_KS = (1, 10, 100)
_PASS_AT = re.compile(r"pass@([1-9][0-9]{0,8})")
# Rates that differ by less are the same.
_SAME = 1e-9
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
    cells, backend = _of_name(path)
    cells |= {"task_path": task, "n_shot": "0", "eval_suite": "evalplus"}
    finished = values.parse_local_time(get_text(document, "date")) or values.find_finish_time(path)
    return [
        ScoredRow(
            native_cells.make_row(cells),
            compute_scores(task, problems, get_objects(document, "pass_at_k")),
            finished=finished,
            run_dir=path,
            environment=Environment(backend=backend),
            # The digest of the problems and their tests.
            tasks={task: TaskState(hash=str(document["hash"]))},
        )
    ]


def _of_name(path: str) -> tuple[dict[str, str], str]:
    """Return the cells and the backend that the file's name gives; none without a model's name.

    The name has `--` for each slash of the model; evalplus strips dots and slashes from its ends.
    """
    directory, name = os.path.split(os.path.abspath(path))
    name = _ENDING.sub("", name)
    match = _NAME.fullmatch(name or os.path.basename(directory))
    if not match or not (name or match["backend"]):
        return {}, ""
    cells = native_cells.model_cells(native_cells.read_path(match["model"]), {})
    if match["backend"]:
        cells["backend"] = "" if match["backend"] == "hf" else match["backend"]
    generation = {"temperature": match["temperature"]} if match["temperature"] else {}
    generation |= {name: "true" for name in _BEFORE if match[name]}
    cells["gen_kwargs"] = native_cells.format_arguments(generation)
    return cells, match["backend"] or ""


def compute_scores(
    task: str, problems: Mapping[str, list[Object]], given: Mapping[str, Object]
) -> list[MetricScore]:
    """Return pass@k with the benchmark's own tests (base), and with evalplus's too (plus).

    `given` has the scores of the file by tests; they count if they differ from what we compute.
    """
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
        rates = pass_at_k.compute_pass_rates(tallies, _KS)
        for name, value in given.get(tests, {}).items():
            match = _PASS_AT.fullmatch(name)
            if match and is_finite(value):
                rates[int(match[1])] = _with_value(rates.get(int(match[1])), value)
        for k, rate in rates.items():
            found.append(
                pass_at_k.make_score(task, k, rate=rate, n_samples=len(tallies), tests=tests)
            )
    return found


def _with_value(computed: PassRate | None, value: float) -> PassRate:
    """Return the rate that the file gives, with our standard error if ours is the same."""
    is_same = computed is not None and abs(computed.value - value) < _SAME
    return PassRate(value, computed.stderr if computed and is_same else None)
