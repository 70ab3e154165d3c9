"""Reads the results of bigcodebench: *_pass_at_k.json and *_eval_results.json.

An evaluation writes both files. The first has the scores and stands for the evaluation; if the
second lies beside it, standard errors are computed from that. The second alone is a result, too.
Model, revision, split and subset are read from the file's name if bigcodebench.generate gave it
(`org--model--main--bigcodebench-hard-complete--vllm-0-1-sanitized_calibrated_pass_at_k.json`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oellm.core import json_codec
from oellm.core.json_codec import is_finite
from oellm.core.regular_files import read_regular
from oellm.frameworks.reading import native_cells, pass_at_k, values
from oellm.frameworks.reading.pass_at_k import PassRate, Tally
from oellm.frameworks.reading.values import Object, describe_value, get_text
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.environment import Environment

_SCORES, _OUTCOMES = "pass_at_k.json", "eval_results.json"
_NAME = re.compile(
    r"(?P<model>.+?)(?P<prefilled>--skip_prefill)?--(?P<revision>(?:(?!--).)+)--bigcodebench"
    r"-(?:(?P<subset>hard)-)?(?P<split>complete|instruct)"
    r"--(?P<backend>[^-]+)-(?P<temperature>[0-9.]+)-(?P<n_samples>[0-9]+)"
    r"(?P<raw>\.raw)?(?P<sanitized>[-_.]sanitized)?(?P<calibrated>[-_]calibrated)?.*"
)
# What came before the evaluation; each has scores of its own.
_BEFORE = ("raw", "sanitized", "calibrated")
_PASS_AT = re.compile(r"pass@([1-9][0-9]*)")
# The values of k that bigcodebench computes by default.
_KS = (1, 5, 10)
_PASSED = "pass"
# Below this rate the machine cannot run the reference solutions; bigcodebench itself warns.
_MIN_GT_PASS_RATE = 0.99


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return the row of a result.

    Returns None if the document is no result of bigcodebench, or if another file stands for its
    evaluation. Raises ValueError if it is damaged.
    """
    if "gt_pass_rate" in document and "split" in document:
        return [_of_scores(document, path)]
    if _has_outcomes(document):
        return None if _beside(path, _SCORES).is_file() else [_of_outcomes(document, path)]
    return None


def _has_outcomes(document: Object) -> bool:
    problems = document.get("eval")
    return isinstance(problems, dict) and any(n.startswith("BigCodeBench/") for n in problems)


def _of_scores(document: Object, path: str) -> ScoredRow:
    split, subset = get_text(document, "split"), get_text(document, "subset")
    cells = _cells(path, get_text(document, "model"), split=split, subset=subset)
    given = {int(match[1]): key for key in document if (match := _PASS_AT.fullmatch(key))}
    tallies = _tallies_beside(path)
    computed = pass_at_k.compute_pass_rates(tallies, list(given))
    scores, remarks = [], []
    for k, key in given.items():
        value, task = document[key], cells["task_path"]
        if not is_finite(value):
            remarks.append(f"{key} of {task} is {describe_value(value)}")
            continue
        found = computed.get(k)
        # The outcomes may be those of another evaluation, or of only some of the problems.
        is_same = found is not None and abs(found.value - value) < 1e-9
        rate = found if found and is_same else PassRate(value, None)
        n_problems = len(tallies) if is_same else None
        scores.append(pass_at_k.make_score(task, k, rate=rate, n_samples=n_problems, tests="none"))
    passed = document["gt_pass_rate"]
    if not is_finite(passed) or passed < _MIN_GT_PASS_RATE:
        shown = passed if is_finite(passed) else describe_value(passed)
        remarks.append(f"gt_pass_rate is {shown}: reference solutions fail on that machine")
    finished = values.find_finish_time(path)
    return ScoredRow(
        native_cells.make_row(cells),
        scores,
        finished=finished,
        run_dir=path,
        remarks=tuple(remarks),
        environment=_environment(path),
    )


def _of_outcomes(document: Object, path: str) -> ScoredRow:
    cells = _cells(path, "", split="", subset="")
    tallies = _tallies(document["eval"])
    scores = [
        pass_at_k.make_score(cells["task_path"], k, rate=rate, n_samples=len(tallies), tests="none")
        for k, rate in pass_at_k.compute_pass_rates(tallies, _KS).items()
    ]
    finished = values.parse_local_time(get_text(document, "date")) or values.find_finish_time(path)
    row = native_cells.make_row(cells)
    return ScoredRow(row, scores, finished=finished, run_dir=path, environment=_environment(path))


def _cells(path: str, model: str, split: str, subset: str) -> dict[str, str]:
    """Return the cells of a result; the file's name tells more than its content."""
    cells = {"eval_suite": "bigcodebench", "n_shot": "0"}
    match = _NAME.match(os.path.basename(path))
    if match:
        revision = {} if match["revision"] == "main" else {"revision": match["revision"]}
        cells |= native_cells.model_cells(native_cells.read_path(match["model"]), revision)
        cells["backend"] = "" if match["backend"] == "hf" else match["backend"]
        generation = {"temperature": match["temperature"], "n_samples": match["n_samples"]}
        if match["prefilled"]:
            generation["skip_prefill"] = "true"
        generation |= {name: "true" for name in _BEFORE if match[name]}
        cells["gen_kwargs"] = native_cells.format_arguments(generation)
        split, subset = split or match["split"], subset or match["subset"] or "full"
    elif model:
        cells |= native_cells.model_cells(model.removesuffix(".jsonl"), {})
    if not split:
        raise ValueError("split: neither the result nor its file's name says which")
    hard = "-hard" if subset == "hard" else ""
    return {**cells, "task_path": f"bigcodebench{hard}-{split}"}


def _environment(path: str) -> Environment:
    """Return what the file's name tells: what generated the programs."""
    match = _NAME.match(os.path.basename(path))
    return Environment(backend=match["backend"] if match else "")


def _beside(path: str, ending: str) -> Path:
    """Return the path of the other file of an evaluation."""
    directory, name = os.path.split(path)
    return Path(directory, name.removesuffix(_SCORES).removesuffix(_OUTCOMES) + ending)


def _tallies_beside(path: str) -> list[Tally]:
    """Return the outcomes beside a file of scores; an empty list if they cannot be read."""
    try:
        document = json_codec.loads(read_regular(_beside(path, _OUTCOMES)))
        return _tallies(document["eval"]) if _has_outcomes(document) else []
    except (OSError, ValueError, AttributeError):
        return []


def _tallies(problems: Mapping[str, Any]) -> list[Tally]:
    samples_of = pass_at_k.require_samples(problems, "status")
    return [
        Tally(sum(sample["status"] == _PASSED for sample in samples), len(samples))
        for samples in samples_of.values()
    ]
