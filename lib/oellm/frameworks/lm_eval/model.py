"""lm-evaluation-harness: its models, each loaded in a process that does nothing else."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

from oellm.frameworks.interface import GoOn
from oellm.frameworks.lm_eval import environment, messages, patches, scoring
from oellm.frameworks.lm_eval.arguments import load_arguments
from oellm.frameworks.lm_eval.messages import Call, Handle, Reply
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models import identity as model_identity
from oellm.models.staging import Source
from oellm.runs import provenance
from oellm.runs.answers import Answers

# After these an accelerator answers no call of this process any more.
_BROKEN = ("CUDA error", "HIP error", "cuDNN error", "NCCL error", "device-side assert")


class Model:
    """One process's use of lm-eval's models; keeps the one that was loaded last."""

    replaceable = False
    origin = ""

    def __init__(self, report: Callable[[str], None]) -> None:
        environment.prepare()
        import lm_eval.models  # noqa: F401

        patches.mend()
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
        arguments = load_arguments(key, row)
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
            return Reply(replied, messages.Usage(), {}, "", b"")
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
