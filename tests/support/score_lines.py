"""Result lines, as oe-run-task prints them, with the scores that a test needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from oellm.metrics import records as metric_records
from oellm.metrics import scored_rows
from oellm.metrics.records import MetricRecord
from oellm.tasks import suites

SMALL, LARGE = "/evals/models/tiny/iter_0001000", "/evals/models/tiny/iter_0010000"
# All characters that have a meaning in one of the formats.
HOSTILE_MODEL = "/evals/models/a|b_c\\d <script>alert('x')</script> & 100%\n#{~^$}[*]_é--"
HOSTILE_TASK = "*|_t_|<i>\\x\\|"


def metric(task: str, value: float, **others: Any) -> dict[str, Any]:
    usual = {"group": "", "n_shot": 0, "metric": "acc", "filter": "none", "stderr": 0.0125}
    usual |= {"higher_is_better": True, "n_samples": 100}
    return {"task": task, **usual, "value": value, **others}


def line(model: str, *metrics: dict[str, Any], run_dir: str = "/evals/run", **cells: str) -> str:
    """Return the result of a row whose task is that of the first metric."""
    row = {"model_path": model, "task_path": metrics[0]["task"], "n_shot": "", **cells}
    identity = hashlib.sha256(json.dumps([row, metrics[0]["n_shot"]]).encode()).hexdigest()[:16]
    ours = {"eval_id": identity, "status": "done", "row": row, "metrics": list(metrics)}
    ours["timing"] = {"finished": "2026-01-02T03:04:05Z"}
    return json.dumps({"oellm": {**ours, "provenance": {"run_dir": run_dir}}}) + "\n"


def records(lines: Iterable[str], metric: str = "") -> list[MetricRecord]:
    """Return the metric records of result lines."""
    primary = metric_records.PrimaryMetrics(suites.primary_metrics({}), metric)
    found: list[MetricRecord] = []
    for ours in map(json.loads, lines):
        scored = scored_rows.read_scored_row(ours, ours["oellm"]["provenance"]["run_dir"])
        found += metric_records.make_metric_records(scored, primary)
    return found


def _of_checkpoint(model: str, scores: list[float], last_of_mmlu: str) -> list[str]:
    mmlu = {"n_shot": 5, "group": "mmlu"}
    perplexity = {"metric": "word_perplexity", "higher_is_better": False, "stderr": None}
    members = [metric(f"mmlu_{name}", 0.5, **mmlu) for name in ("art", last_of_mmlu)]
    aggregate = "reported" if last_of_mmlu == "law" else "partial"
    return [
        line(
            model,
            metric("hellaswag", scores[0]),
            metric("hellaswag", scores[0] + 0.125, metric="acc_norm"),
        ),
        line(model, metric("hellaswag", scores[1], n_shot=5)),
        line(model, metric("mmlu", scores[2], n_shot=5, aggregate=aggregate), *members),
        line(model, metric("wikitext", scores[3], **perplexity)),
        line(model, metric(HOSTILE_TASK, 0.5)),
    ]


# Two checkpoints, and another model that lacks most of their scores.
LINES = [
    *_of_checkpoint(SMALL, [0.25, 0.3125, 0.5, 12.5], "law"),
    line(SMALL, metric("humaneval", 0.125, metric="pass@1")),
    line(SMALL, metric("humaneval", 0.25, metric="pass@1"), eval_suite="bigcode_eval"),
    *_of_checkpoint(LARGE, [0.375, 1 / 3, 0.625, 10.0], "tax"),
    line(HOSTILE_MODEL, metric("hellaswag", 1 / 3, n_shot=5)),
]
