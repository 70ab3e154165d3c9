"""A row's model arguments, as lm-eval's models take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oellm.errors import find_nearest, nearest
from oellm.manifest.argument_texts import COMPANIONS, NAMES, unquoted
from oellm.manifest.model_key import ModelKey
from oellm.manifest.model_spec import looks_local
from oellm.manifest.rows import Row

# The argument that makes a backend use several GPUs, and its value; None stands for their number.
_SPLITTING: dict[str, tuple[str, Any]] = {
    "hf": ("parallelize", True),
    "vllm": ("tensor_parallel_size", None),
}
# The types that torch and vLLM know by these names.
_DTYPES = ("auto", "float16", "bfloat16", "float32", "float64", "half", "float", "double")
_NICKNAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "f16": "float16"}
_FP8 = re.compile(r"float8_\w+")
# The model classes of lm-eval 0.4.0 to 0.4.13.
_BACKENDS = (
    *("anthropic", "anthropic-chat", "anthropic-chat-completions", "anthropic-completions"),
    *("azure-openai-chat-completions", "dummy", "ggml", "gguf", "habana", "hf", "hf-audiolm-qwen"),
    *("hf-auto", "hf-mistral3", "hf-multimodal", "huggingface", "ipex", "litellm", "litellm-chat"),
    *("litellm-chat-completions", "local-chat-completions", "local-completions", "mamba_ssm"),
    *("megatron_lm", "nemo_lm", "neuronx", "onnxruntime", "onnxruntime-genai"),
    *("openai-chat-completions", "openai-completions", "openvino", "sglang", "sglang-generate"),
    *("steered", "textsynth", "trtllm", "vllm", "vllm-vlm", "watsonx_llm", "winml"),
)


def require_known_values(row: Row) -> None:
    """Raise InputError for a type of weights or a backend that lm-eval does not have."""
    dtype = row.model_arguments.get("dtype", row["dtype"])
    # An argument of a backend of its own may be anything.
    if dtype and isinstance(dtype, str) and dtype not in _DTYPES and not _FP8.fullmatch(dtype):
        hint = _NICKNAMES.get(dtype.lower()) or find_nearest(dtype.removeprefix("torch."), _DTYPES)
        known = f", did you mean {hint}?" if hint else f"; known are {', '.join(_DTYPES)}"
        column = "dtype" if row["dtype"] == dtype else "model_path"
        raise row.error(column, f"unknown floating-point type {dtype!r}{known}")
    backend = row.typed.backend
    if backend not in _BACKENDS:
        hint = nearest(backend, _BACKENDS) or f"; known are {', '.join(_BACKENDS)}"
        raise row.error("backend", f"lm-eval has no model class {backend!r}{hint}")


def load_arguments(key: ModelKey, row: Row) -> dict[str, Any]:
    """Return the arguments with which lm-eval loads the row's model.

    Raises ValueError if this machine or the backend cannot split the model over `tp` GPUs.
    """
    arguments: dict[str, Any] = {"pretrained": row.model.path, **with_types(row.model_arguments)}
    if row["model_revision"]:
        arguments |= {"revision": row["model_revision"], **_companion_paths(arguments)}
    if row["dtype"]:
        arguments.setdefault("dtype", row["dtype"])
    if row.value("trust_remote_code"):
        arguments.setdefault("trust_remote_code", True)
    return arguments | _split_arguments(key.backend, row.value("tp") or 1)


def with_types(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with the types that lm-eval's command line gives to their texts.

    Names stay texts, whatever they look like: a commit may be `5e12345`, a directory `0000100`.
    """
    from lm_eval.utils import handle_arg_string

    return {
        name: value
        if name in NAMES or not isinstance(value, str)
        # lm-eval before 0.4.12 keeps the quotes that make a text of a number.
        else (text if (text := unquoted(value)) != value else handle_arg_string(value))
        for name, value in arguments.items()
    }


def _companion_paths(arguments: dict[str, Any]) -> dict[str, str]:
    """Return the cached snapshots of the repositories that model arguments name.

    Given their names, lm-eval would look for the model's own commit in them.
    """
    from huggingface_hub import snapshot_download

    return {
        name: snapshot_download(arguments[name], local_files_only=True)
        for name in COMPANIONS
        if name in arguments and not looks_local(arguments[name])
    }


def _split_arguments(backend: str, gpus: int) -> dict[str, Any]:
    """Return the arguments that split a model over GPUs; raises ValueError if that cannot be."""
    if gpus == 1:
        return {}
    import torch

    if gpus > torch.cuda.device_count():
        raise ValueError(
            f"tp: {gpus} GPUs are requested, but {torch.cuda.device_count()} are available"
        )
    if backend not in _SPLITTING:
        raise ValueError(f"tp: the backend {backend} cannot split a model over GPUs")
    name, value = _SPLITTING[backend]
    return {name: gpus if value is None else value}
