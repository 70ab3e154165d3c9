"""Reads the results of bigcode-evaluation-harness and of its fork nvidia-bigcode-eval.

The file of --metric_output_path has scores by task and all options under `config`. If the
generations were loaded from a file, the options of generation do not apply to them, and the model
is the value of --model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading import values as native_values
from oellm.frameworks.reading.plain_metrics import describe_left_out, read_metrics
from oellm.frameworks.reading.values import Object, get_object, get_text
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import MetricScore, ScoredRow
from oellm.runs.environment import Environment

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_GENERATION = ("do_sample", "temperature", "top_k", "top_p", "max_length_generation", "seed")
# The few-shot examples of tasks that have the same number in all versions.
SHOTS = {
    "humaneval": 0,
    "humaneval-unstripped": 0,
    "humanevalplus": 0,
    "mbpp": 0,
    "mbppplus": 0,
    "conala": 2,
    "concode": 2,
}


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return one row for each task; None if the document is no result of bigcode.

    Raises ValueError if it is damaged.
    """
    config = document.get("config")
    if not isinstance(config, dict) or not {"metric_output_path", "tasks"} <= config.keys():
        return None
    tasks = {name: get_object(document, name) for name in document if name != "config"}
    start = config.get("limit_start")
    skipped = (f"its first {start} documents were left out",) if start else ()
    # If generations were loaded, this precision is not that of the model that made them.
    generated = not config.get("load_generations_path")
    precision = str(config.get("precision") or "") if generated else ""
    shared = ScoredRow(
        Row(_cells(config)),
        [],
        finished=native_values.find_finish_time(path),
        run_dir=path,
        notes=skipped,
        environment=Environment(dtype=_DTYPES.get(precision, precision)),
    )
    found = []
    for task, values in tasks.items():
        scores, remarks = list(read_scores(task, values)), tuple(describe_left_out(task, values))
        if scores or remarks:
            # No row of a manifest has the column `documents`, so none takes a part for the whole.
            of_row = {"documents": "chosen" if skipped else "", "task_path": task}
            of_row["n_shot"] = native_cells.format_shared_shots(scores)
            row = native_cells.make_row({**shared.row.cells, **of_row})
            found.append(shared._replace(row=row, scores=scores, remarks=remarks))
    return found


def read_scores(task: str, values: Mapping[str, Any]) -> Iterator[MetricScore]:
    """Yield the scores among the values of a task."""
    for name, value, stderr in read_metrics(values):
        yield MetricScore(
            task=task,
            group="",
            n_shot=SHOTS.get(task),
            metric=name,
            filter="none",
            value=value,
            stderr=stderr,
            higher_is_better=True if name.startswith("pass@") else None,
            # The file does not say how many problems there were.
            n_samples=None,
            aggregate="",
        )


def _cells(config: Object) -> dict[str, str]:
    """Return the cells that all rows of a result share."""
    arguments: Object = {}
    generation: Object = {"n_samples": config.get("n_samples")}
    for key, name in (("revision", "revision"), ("peft_model", "peft")):
        if config.get(key):
            arguments[name] = config[key]
    if not config.get("load_generations_path"):
        if precision := get_text(config, "precision"):
            arguments["dtype"] = _DTYPES.get(precision, precision)
        for key in ("load_in_8bit", "load_in_4bit"):
            if config.get(key):
                arguments[key] = config[key]
        generation |= {name: config.get(name) for name in _GENERATION}
    # apply_default_chat_template is of the fork.
    templates = (config.get("apply_default_chat_template"), config.get("custom_chat_template"))
    return {
        **native_cells.model_cells(get_text(config, "model"), arguments),
        "eval_suite": "bigcode_eval",
        "limit": native_cells.format_limit(config.get("limit")),
        "gen_kwargs": native_cells.format_arguments(
            {name: value for name, value in generation.items() if value is not None}
        ),
        "apply_chat_template": "true" if any(templates) else "",
    }
