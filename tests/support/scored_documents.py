"""One side of a comparison: metric records, and the samples behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oellm.metrics.records import MetricRecord

Line = dict[str, Any]


def record(**columns: Any) -> MetricRecord:
    usual: dict[str, Any] = {
        "eval_id": "0123456789abcdef",
        "model_path": "acme/tiny",
        "task": "arc_easy",
        "group": "",
        "n_shot": 5,
        "eval_suite": "lm_eval",
        "metric": "acc",
        "filter": "none",
        "value": 0.5,
        "stderr": 0.1,
        "higher_is_better": True,
        "n_samples": 25,
        "is_primary": True,
        "run_dir": "/no/such/run",
    }
    return MetricRecord(**{**usual, **columns})


def record_of(values: Sequence[float], **columns: Any) -> MetricRecord:
    """Return the record of a mean, with the standard error that lm-eval computes."""
    n = len(values)
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    scores: dict[str, Any] = {
        "value": mean,
        "stderr": math.sqrt(squares / (n - 1) / n) if n > 1 else None,
        "n_samples": n,
    }
    return record(**{**scores, **columns})


def sample(doc_id: int, metrics: Mapping[str, Any], text: str = "", **more: Any) -> Line:
    """Return a line of samples, with keys in the order of lm-eval."""
    return {
        "task": "arc_easy",
        "doc_id": doc_id,
        "doc": {"question": text, "doc": {"filter": text}},
        "target": text,
        "arguments": [[text, text]],
        "resps": [[[-1.5, False]]],
        "filtered_resps": [[-1.5, False]],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": f"doc {doc_id}",
        "prompt_hash": "",
        "target_hash": f"target {doc_id}",
        **metrics,
        **more,
    }


def samples_of(values: Sequence[float], **more: Any) -> list[Line]:
    return [sample(number, {"acc": value}, **more) for number, value in enumerate(values)]


def write_samples(run_dir: Path, lines: Sequence[Any], eval_id: str = "0123456789abcdef") -> Path:
    path = run_dir / "samples" / f"{eval_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_groups(run_dir: Path, groups: Mapping[str, list[str]]) -> None:
    path = run_dir / "results" / "0123456789abcdef.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"group_subtasks": groups, "other": math.nan}))
