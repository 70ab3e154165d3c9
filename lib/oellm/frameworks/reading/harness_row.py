"""What all rows of a result of lm-eval, or of a tool built on it, share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oellm.core.json_codec import is_finite
from oellm.frameworks.reading import native_cells
from oellm.frameworks.reading import values as native_values
from oellm.frameworks.reading.harness_model import read_model
from oellm.frameworks.reading.values import Object, get_text, is_count
from oellm.manifest.rows import Row
from oellm.metrics.scored_rows import ScoredRow
from oellm.runs.contents import Contents
from oellm.runs.environment import Environment

_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
_DEFAULT_SEEDS = [0, 1234, 1234, 1234]


# Lines of the environment that lm-eval writes down, as PyTorch describes it.
_GPU = re.compile(r"^GPU [0-9]+: (.+)$", re.MULTILINE)
_DTYPE = re.compile(r"(?:torch\.)?(b?float[0-9a-z_]+|u?int[0-9]+)")
_SHA = re.compile(r"[0-9a-f]{64}")
# Digits of a chat template's digest, as in `Contents`.
_TEMPLATE_DIGITS = 16


def read_shared_row(native: Object, path: str) -> ScoredRow:
    """Return what all rows of the result in a file share: all but a task and its scores.

    Its environment lacks the version of the framework. Raises ValueError if the result is damaged.
    """
    cells = _cells(native)
    return ScoredRow(
        Row(cells),
        [],
        finished=_finish_time(native, path),
        run_dir=path,
        contents=_contents(native, cells),
        environment=_environment(native),
    )


def _cells(native: Object) -> dict[str, str]:
    config, model = native["config"], read_model(native)
    cells = {
        "backend": "" if model.backend == "hf" else model.backend,
        "limit": native_cells.format_limit(config.get("limit")),
        "gen_kwargs": _gen_kwargs(config.get("gen_kwargs")),
        "seed": _seed(config),
        "system_instruction": get_text(native, "system_instruction"),
        "model_revision": get_text(config, "model_sha"),
        **native_cells.model_cells(model.name, model.arguments),
    }
    if "chat_template" in native and not native["chat_template"]:
        cells["apply_chat_template"] = "false"
    elif native.get("chat_template"):
        cells["apply_chat_template"] = "true"
        # With a chat template, an empty cell means true.
        if native.get("fewshot_as_multiturn") is False:
            cells["fewshot_as_multiturn"] = "false"
    return cells


def _contents(native: Object, cells: Mapping[str, str]) -> Contents:
    digest = native.get("chat_template_sha")
    is_digest = isinstance(digest, str) and _SHA.fullmatch(digest)
    return Contents(
        model=cells.get("model_revision", ""),
        chat_template=str(digest)[:_TEMPLATE_DIGITS] if is_digest else "",
    )


def _environment(native: Object) -> Environment:
    model, config = read_model(native), native["config"]
    dtypes = (config.get("model_dtype"), model.arguments.get("dtype"))
    known = (match[1] for text in dtypes if (match := _DTYPE.fullmatch(str(text))))
    gpus = set(_GPU.findall(str(native.get("pretty_env_info"))))
    return Environment(
        backend=model.backend,
        dtype=next(known, ""),
        hardware=gpus.pop().strip() if len(gpus) == 1 else "",
    )


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


def _finish_time(native: Object, path: str) -> str:
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
