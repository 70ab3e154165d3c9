"""lm-evaluation-harness: its models, each loaded in a process that does nothing else."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from oellm.frameworks import GoOn
from oellm.frameworks.lm_eval import environment, scoring
from oellm.hub.errors import COMPANIONS
from oellm.manifest.rows import Row
from oellm.models import identity as model_identity
from oellm.models.expansion import looks_local
from oellm.models.staging import Source
from oellm.plan.sharding import ModelKey
from oellm.runs import provenance
from oellm.runs.answers import Answers

# How a backend is told to use several GPUs: an argument, and its value unless it is their number.
_SPLITTING: dict[str, tuple[str, Any]] = {
    "hf": ("parallelize", True),
    "vllm": ("tensor_parallel_size", None),
}
# After these an accelerator answers no call of this process any more.
_BROKEN = ("CUDA error", "HIP error", "cuDNN error", "NCCL error", "device-side assert")


class Handle(NamedTuple):
    """What rows must know of a loaded model."""

    backend: str
    # Its arguments, as lm-eval's command line writes them into results.
    arguments: str
    # What lm-eval writes into results about the model, and about its tokenizer.
    info: dict[str, Any]
    tokenizer_info: dict[str, Any]
    # The model without its weights, pickled: enough to tokenise; empty where that cannot be had.
    shell: bytes
    is_multimodal: bool
    identity: dict[str, Any]
    accelerator: dict[str, Any]
    seconds: float
    # Of these, until the model was copied to the node's disk; None where it was not.
    staged_s: float | None


class Call(NamedTuple):
    """What a row asks: a method of the model, and what that gets."""

    method: str
    arguments: Any
    # By what the answer to each request is kept; None for those that are not.
    keys: list[str | None]
    batch_size: int | str
    # Where random, NumPy and torch are: their seeds, then what the reply before says. The model
    # may answer other rows between two calls of one, and be another process.
    generators: scoring.Seeds | bytes


class Reply(NamedTuple):
    """What a row gets for a call."""

    answers: Any
    usage: scoring.Usage
    # lm-eval's batch_sizes, which its results show.
    batch_sizes: dict[int, int]
    # What lm-eval writes into results about the machine.
    environment: str
    generators: bytes


class Model:
    """One process's use of lm-eval's models; keeps the one that was loaded last."""

    replaceable = False
    origin = ""

    def __init__(self, report: Callable[[str], None]) -> None:
        environment.prepare()
        import lm_eval.models  # noqa: F401

        environment.mend()
        self._report = report
        self._environment = ""
        # This takes a moment, in which the model loads.
        self._asking = threading.Thread(target=self._ask_environment, daemon=True)
        self._asking.start()
        self._scoring: scoring.Scoring | None = None

    def load(self, key: ModelKey, row: Row, source: Source) -> Handle:
        """Load the row's model in the place of the one that is loaded."""
        from lm_eval.api.registry import get_model

        made = get_model(key.backend)
        started = time.perf_counter()
        self._unload()
        # A load that fails halfway leaves nothing behind, but in backends with processes of theirs.
        self.replaceable = key.backend == "hf"
        arguments = _arguments(key, row)
        loaded = made.create_from_arg_obj(
            # cuda:0 is what lm-eval's command line asks for; without a GPU it means the CPU.
            {"device": "cuda:0", **arguments, "pretrained": source.path},
            {"batch_size": row.value("batch_size") or 1},
        )
        self._scoring = scoring.Scoring(loaded, self._report)
        self.replaceable = self._scoring.module is not None
        given = row.model_arguments
        identity = model_identity.identity(
            row.model.path,
            row["model_revision"] or str(given.get("revision", "")),
            str(given.get("subfolder", "")),
        )
        self.origin = json.dumps([key, identity, environment.versions()], sort_keys=True)
        return Handle(
            key.backend,
            ",".join(f"{name}={value}" for name, value in arguments.items()),
            loaded.get_model_info() if hasattr(loaded, "get_model_info") else {},
            _tokenizer_info(loaded),
            _shell(loaded),
            bool(getattr(loaded, "MULTIMODAL", False)),
            identity,
            provenance.accelerator(),
            time.perf_counter() - started + (source.staged_s or 0.0),
            source.staged_s,
        )

    def answer(self, call: Call, answers: Answers | None, go_on: GoOn) -> Reply:
        """Call a method of the loaded model."""
        assert self._scoring is not None
        if not call.keys:
            replied = getattr(self._scoring.model, call.method)(*call.arguments)
            return Reply(replied, scoring.Usage(), {}, "", b"")
        replied, usage = self._scoring.score(call, answers, go_on)
        self._asking.join()
        sizes = dict(getattr(self._scoring.model, "batch_sizes", {}))
        return Reply(replied, usage, sizes, self._environment, scoring.generators())

    def is_broken_by(self, error: BaseException) -> bool:
        """Return whether an accelerator answers nothing any more after this error."""
        if type(error).__name__ == "AcceleratorError":
            return True
        return not scoring.is_out_of_memory(error) and any(sign in str(error) for sign in _BROKEN)

    def _ask_environment(self) -> None:
        from torch.utils import collect_env

        # Starting pip for the list of packages takes most of the time; the list is no secret of it.
        asking = collect_env.get_pip_packages
        collect_env.get_pip_packages = lambda _, patterns=None: asking(_listed, patterns)
        try:
            self._environment = collect_env.get_pretty_env_info()
        # As lm-eval has it: what this asks of the system may be missing or fail in any way.
        except Exception as error:
            self._environment = str(error)

    def _unload(self) -> None:
        import gc

        import torch

        if self._scoring is None:
            return
        self._scoring = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _listed(_command: Any) -> tuple[int, str, str]:
    """Be `pip list --format=freeze`: return status, output and messages."""
    import importlib.metadata

    names = {
        f"{each.metadata['Name']}=={each.version}" for each in importlib.metadata.distributions()
    }
    return 0, "\n".join(sorted(names, key=str.lower)), ""


def _arguments(key: ModelKey, row: Row) -> dict[str, Any]:
    arguments: dict[str, Any] = {"pretrained": row.model.path, **typed(row.model_arguments)}
    if row["model_revision"]:
        arguments |= {"revision": row["model_revision"], **_companions(arguments)}
    if row["dtype"]:
        arguments.setdefault("dtype", row["dtype"])
    if row.value("trust_remote_code"):
        arguments.setdefault("trust_remote_code", True)
    return arguments | _split(key.backend, row.value("tp") or 1)


def typed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as lm-eval's command line takes them: text becomes what it says."""
    from lm_eval.utils import handle_arg_string

    return {
        name: handle_arg_string(value) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def _companions(arguments: dict[str, Any]) -> dict[str, str]:
    """Return where the cache has the repositories that model arguments name besides the model.

    By their names, lm-eval would ask for the model's commit in them too.
    """
    from huggingface_hub import snapshot_download

    return {
        name: snapshot_download(arguments[name], local_files_only=True)
        for name in COMPANIONS
        if name in arguments and not looks_local(arguments[name])
    }


def _split(backend: str, gpus: int) -> dict[str, Any]:
    """Return the arguments that split a model over GPUs; raises ValueError where that cannot be."""
    if gpus == 1:
        return {}
    import torch

    if gpus > torch.cuda.device_count():
        raise ValueError(f"tp: {gpus} GPUs are asked for, {torch.cuda.device_count()} are here")
    if backend not in _SPLITTING:
        raise ValueError(f"tp: the backend {backend} cannot split a model over GPUs")
    name, value = _SPLITTING[backend]
    return {name: gpus if value is None else value}


def _tokenizer_info(model: Any) -> dict[str, Any]:
    from lm_eval.loggers.utils import add_tokenizer_info

    info: dict[str, Any] = {}
    add_tokenizer_info(info, model)
    return info


def _shell(model: Any) -> bytes:
    """Return a model's class and those of its attributes that tokenising needs, pickled.

    Of lm-eval's models on transformers only: other backends' classes bring the backend with them.
    """
    from lm_eval.models.huggingface import HFLM

    if type(model) is not HFLM:
        return b""
    kept = {name: value for name, value in vars(model).items() if _is_light(value)}
    # Otherwise it is looked up in the configuration of the weights.
    kept["_max_length"] = model.max_length
    try:
        return pickle.dumps(kept)
    # A tokenizer whose code came with the model may be of any class.
    except Exception:
        return b""


def _is_light(value: Any) -> bool:
    import torch
    from transformers import PreTrainedTokenizerBase

    if isinstance(value, (list, tuple)):
        return all(map(_is_light, value))
    if isinstance(value, dict):
        return all(map(_is_light, value.values()))
    simple = (bool, int, float, str, torch.dtype, torch.device, PreTrainedTokenizerBase)
    return value is None or isinstance(value, simple)
