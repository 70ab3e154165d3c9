"""Result files of lm-eval, versions 0.4.0 to 0.4.13: written by itself or by oe-run-task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oellm.frameworks.interface import (
    GENERATE_UNTIL,
    LOGLIKELIHOOD,
    LOGLIKELIHOOD_ROLLING,
)
from oellm.frameworks.lm_eval.groups import Groups
from oellm.frameworks.lm_eval.metrics import is_metric, normalise_metrics
from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading import values as native_values
from oellm.frameworks.reading.values import (
    Object,
    describe_value,
    get_object,
    get_objects,
    get_text,
    is_count,
)
from oellm.metrics.records import is_finite
from oellm.metrics.scored_rows import MetricScore, ScoredRow

# Model arguments that name the model; the first that is present counts.
_NAMES = ("pretrained", "model", "path", "engine")
# Arguments that change no score: where and how fast a model runs, who may read it, and arguments
# that have a column of their own in a manifest.
_NO_INFLUENCE = (
    "trust_remote_code",
    "device",
    "device_map",
    "device_map_option",
    "parallelize",
    "batch_size",
    "max_batch_size",
    "max_memory_per_gpu",
    "max_cpu_memory",
    "offload_folder",
    "cache_dir",
    "tensor_parallel_size",
    "data_parallel_size",
    "pipeline_parallel_size",
    "gpu_memory_utilization",
    "swap_space",
    "num_concurrent",
    "max_retries",
    "timeout",
    "base_url",
    "token",
    "hf_token",
    "use_auth_token",
    "api_key",
)
# The type of requests of each type of tasks, as the tasks' configurations name them.
_REQUEST_TYPES = {
    "multiple_choice": LOGLIKELIHOOD,
    "loglikelihood": LOGLIKELIHOOD,
    "loglikelihood_rolling": LOGLIKELIHOOD_ROLLING,
    "generate_until": GENERATE_UNTIL,
}
_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
_DEFAULT_SEEDS = [0, 1234, 1234, 1234]


def read_scored_rows(document: Object, path: str) -> list[ScoredRow] | None:
    """Return one row for each group that is in no other group, and each task that is in no group.

    Returns None if the document is no result of lm-eval. Raises ValueError if it is damaged.
    """
    if "results" not in document or not {"config", "configs", "n-shot"} & document.keys():
        return None
    results = get_objects(document, "results")
    keys = [key for values in results.values() for key in values]
    if any(key.endswith("_stderr") for key in keys) and not any(map(is_metric, keys)):
        raise ValueError(
            "results: expected metrics with a filter, as in acc,none; is it from lm-eval 0.3?"
        )
    native = _check_types(document, results)
    cells, finished = _cells(native), _finished(native, path)
    groups = Groups(native)
    rows = []
    for root in groups.top(results):
        part = _restrict_to(root, native, groups)
        scores = normalise_metrics(part, root)
        if scores:
            own = {"task_path": root, "n_shot": native_cells.format_shared_shots(scores)}
            row = native_cells.make_row({**cells, **own})
            remarks = (*_non_finite_remarks(results, part), *_incomplete_remarks(part, scores))
            rows.append(ScoredRow(row, scores, finished=finished, run_dir=path, remarks=remarks))
    return rows


def request_types(native: Mapping[str, Any]) -> frozenset[str]:
    """Return the types of the requests behind a native result.

    The empty text stands for tasks whose configuration does not tell it. Raises AttributeError if
    the result is damaged.
    """
    configs = native.get("configs", {}).values()
    return frozenset(_REQUEST_TYPES.get(config.get("output_type", ""), "") for config in configs)


def _check_types(document: Object, results: dict[str, Object]) -> Object:
    """Return the needed parts of a result, with checked types and only finite metrics."""
    members = document.get("group_subtasks")
    if members is not None:
        members = get_object(document, "group_subtasks")
        for name, names in members.items():
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"group_subtasks: {name}: expected a list of names")
    shots = get_object(document, "n-shot")
    counts = get_objects(document, "n-samples")
    configs = get_objects(document, "configs")
    for config in configs.values():
        entries = config.get("metric_list") or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ValueError("configs: metric_list: expected a list of objects")
    return {
        **document,
        "results": {task: _finite(values) for task, values in results.items()},
        "groups": get_objects(document, "groups"),
        "group_subtasks": members,
        "n-shot": {task: shots[task] for task in shots if is_count(shots[task])},
        "n-samples": {
            task: count for task, count in counts.items() if is_count(count.get("effective"))
        },
        "higher_is_better": get_objects(document, "higher_is_better"),
        "configs": configs,
        "config": get_object(document, "config"),
    }


def _finite(values: Object) -> Object:
    return {key: v for key, v in values.items() if not is_metric(key) or is_finite(v)}


def _restrict_to(root: str, native: Object, groups: Groups) -> Object:
    """Return the result as if only one task or group had been asked for."""
    names = groups.reachable(root)
    return {
        **native,
        "results": {task: v for task, v in native["results"].items() if task in names},
        "group_subtasks": {name: groups.members[name] for name in names if name in groups.members},
    }


def _non_finite_remarks(results: Mapping[str, Object], part: Object) -> Iterator[str]:
    """Yield a remark for each value in a part that is no finite number."""
    for task in part["results"]:
        for key, value in results[task].items():
            if is_metric(key) and not is_finite(value):
                yield f"{key.partition(',')[0]} of {task} is {describe_value(value)}"


def _incomplete_remarks(part: Object, scores: list[MetricScore]) -> Iterator[str]:
    """Yield a remark for each group value that is left out because tasks have no score."""
    kept = {(score.task, f"{score.metric},{score.filter}") for score in scores}
    for group in part["group_subtasks"]:
        for key in part["results"].get(group, {}):
            if is_metric(key) and (group, key) not in kept:
                yield f"{key.partition(',')[0]} of {group} is left out: some of its tasks have none"


def _cells(native: Object) -> dict[str, str]:
    """Return the cells that all rows of a result share."""
    config = native["config"]
    arguments = _model_arguments(config.get("model_args"))
    named = next((str(arguments[name]) for name in _NAMES if arguments.get(name)), "")
    further = {
        name: value
        for name, value in arguments.items()
        if value is not None and name not in _NO_INFLUENCE and not (named and name in _NAMES)
    }
    name = named or get_text(native, "model_name") or get_text(native, "model_name_or_path")
    backend = get_text(config, "model")
    cells = {
        "model_path": native_cells.format_model_path(name, further),
        "eval_suite": "lm_eval",
        "backend": "" if backend == "hf" else backend,
        "limit": native_cells.format_limit(config.get("limit")),
        "gen_kwargs": _gen_kwargs(config.get("gen_kwargs")),
        "seed": _seed(config),
        "system_instruction": get_text(native, "system_instruction"),
        "model_revision": get_text(config, "model_sha"),
    }
    if native.get("chat_template"):
        cells["apply_chat_template"] = "true"
        # With a chat template, an empty cell means true.
        if native.get("fewshot_as_multiturn") is False:
            cells["fewshot_as_multiturn"] = "false"
    return cells


def _model_arguments(value: Any) -> Object:
    """Return the model arguments, which before lm-eval 0.4.10 are one text."""
    if isinstance(value, dict):
        return value
    if value is not None and not isinstance(value, str):
        raise ValueError(f"model_args: expected a text or an object, got {type(value).__name__}")
    arguments = {}
    for piece in filter(None, (value or "").split(",")):
        name, equals, text = piece.partition("=")
        if not equals:
            raise ValueError(f"model_args: expected key=value, got {piece!r}")
        arguments[name.strip()] = text.strip()
    return arguments


def _gen_kwargs(value: Any) -> str:
    if isinstance(value, dict):
        return native_cells.format_arguments(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"gen_kwargs: expected a text or an object, got {type(value).__name__}")
    return value or ""


def _seed(config: Object) -> str:
    """Return the four seeds; empty if they are lm-eval's defaults."""
    seeds = [config.get(name, "") for name in _SEEDS]
    if seeds == _DEFAULT_SEEDS or not all(s is None or is_count(s) for s in seeds):
        return ""
    return ",".join(map(str, seeds))


def _finished(native: Object, path: str) -> str:
    """Return when the evaluation ended: `date`, in seconds, plus the duration, a text.

    The duration is there since 0.4.3. It includes loading lm-eval, which happens before `date`, so
    the result may be some seconds late.
    """
    began, seconds = native.get("date"), native.get("total_evaluation_time_seconds")
    if not is_finite(began):
        return native_values.find_finish_time(path)
    try:
        duration = float(seconds or 0)
    except (TypeError, ValueError, OverflowError):
        duration = 0.0
    return native_values.format_seconds(began + duration) or native_values.find_finish_time(path)
