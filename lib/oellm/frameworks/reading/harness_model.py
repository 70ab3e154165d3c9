"""The model of a result of lm-eval, or of a tool built on it: name, arguments, and backend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from oellm.core.json_config import parse_json
from oellm.frameworks.reading.values import Object

# Model arguments that name the model; the first that is present counts.
_NAMES = ("pretrained", "model", "path", "engine")
# Arguments that change no score: where and how fast a model runs, who may read it, and arguments
# that have a column of their own in a manifest.
_NO_INFLUENCE = frozenset(
    (
        "trust_remote_code",
        "device",
        "device_map",
        "device_map_option",
        "parallelize",
        "use_accelerate",
        "batch_size",
        "max_batch_size",
        "max_memory",
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
)
# The names of lm-eval's backend for transformers.
_HF = ("hf", "hf-auto", "huggingface")
_WORD = re.compile(r"[\w.+-]+")
# What Python shows of an object without a text of its own.
_OBJECT = re.compile(r"<([\w.]+) object at 0x[0-9a-fA-F]+>")
_OPENING, _CLOSING = "([{", ")]}"


class NativeModel(NamedTuple):
    """What a result says about its model.

    Attributes:
        name: A directory or hub id; empty if the result does not name its model.
        arguments: The arguments that may change a score.
        backend: What ran the model; `hf` for transformers; empty if unknown.
    """

    name: str
    arguments: Object
    backend: str


def read_model(native: Object) -> NativeModel:
    """Return the model of a native result; raises ValueError if its arguments are no arguments."""
    config = native["config"]
    arguments = _read_arguments(config.get("model_args"))
    ran = config.get("model")
    ran = ran if isinstance(ran, str) else ""
    named = next((key for key in _NAMES if _is_name(arguments.get(key))), "")
    # Through the Python API, lm-eval gets a model without arguments, and notes its directory or
    # hub id in place of the backend.
    is_api = not arguments and "/" in ran
    given = (native.get("model_name"), native.get("model_name_or_path"), ran if is_api else "")
    name = str(arguments.get(named) or next((text for text in given if _is_name(text)), ""))
    return NativeModel(
        name=name,
        arguments={
            key: value
            for key, value in arguments.items()
            if value is not None
            and key.lower() not in _NO_INFLUENCE
            and (key not in _NAMES or not named)
        },
        backend="" if is_api else _backend(ran),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _OBJECT.fullmatch(value)


def _backend(text: str) -> str:
    if match := _OBJECT.fullmatch(text):
        return match[1]
    if text in _HF:
        return _HF[0]
    return text if _WORD.fullmatch(text) else ""


def _read_arguments(value: Any) -> Object:
    """Return the model arguments, which before lm-eval 0.4.10 are one text."""
    if isinstance(value, dict):
        return value
    if value is not None and not isinstance(value, str):
        raise ValueError(f"model_args: expected a text or an object, got {type(value).__name__}")
    arguments: Object = {}
    for piece in _split_arguments(value or ""):
        name, equals, text = piece.partition("=")
        if not equals:
            raise ValueError(f"model_args: expected key=value, got {piece!r}")
        arguments[name.strip()] = _read_value(text.strip())
    return arguments


def _split_arguments(text: str) -> list[str]:
    """Split `key=value,key=value` at the commas that are not inside of brackets.

    A part without `=` belongs to the value before it, as in `pretrained=/runs/a,b`.
    """
    pieces: list[str] = []
    for part in _split_outside_brackets(text) or text.split(","):
        if pieces and "=" not in part:
            pieces[-1] += f",{part}"
        else:
            pieces.append(part)
    return [piece for piece in pieces if piece.strip()]


def _split_outside_brackets(text: str) -> list[str]:
    """Return the parts of a text; none if its brackets do not match."""
    parts, start = [], 0
    for place in _commas_outside_brackets(text):
        if place < 0:
            return []
        parts.append(text[start:place])
        start = place + 1
    return [*parts, text[start:]]


def _commas_outside_brackets(text: str) -> Iterator[int]:
    """Yield the places of commas outside of brackets; -1 at the end if these do not match."""
    depth, in_quotes, is_escaped = 0, False, False
    for place, letter in enumerate(text):
        if in_quotes:
            in_quotes = letter != '"' or is_escaped
            is_escaped = letter == "\\" and not is_escaped
        elif letter == '"' and depth:
            in_quotes = True
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and not depth:
            yield place
        if depth < 0:
            break
    if depth or in_quotes:
        yield -1


def _read_value(text: str) -> Any:
    """Return a value; JSON objects and lists become what they say, other texts stay."""
    if text[:1] in ("{", "["):
        try:
            return parse_json(text)
        except (ValueError, RecursionError):
            pass
    return text
