"""A row's model arguments, as lm-eval's models take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oellm.manifest.argument_texts import COMPANIONS, NAMES, unquoted
from oellm.manifest.model_key import ModelKey
from oellm.manifest.model_spec import looks_local
from oellm.manifest.rows import Row

# The argument that makes a backend use several GPUs, and its value; None stands for their number.
_SPLITTING: dict[str, tuple[str, Any]] = {
    "hf": ("parallelize", True),
    "vllm": ("tensor_parallel_size", None),
}


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
