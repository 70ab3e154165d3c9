"""lm-eval's models: loaded and asked in a process that does nothing else."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from oellm.core.log import Log
from oellm.frameworks.interface import GoOn
from oellm.frameworks.lm_eval import environment, messages, patches, scoring
from oellm.frameworks.lm_eval.arguments import load_arguments
from oellm.frameworks.lm_eval.messages import Call, CallReply, Handle
from oellm.manifest.argument_texts import json_text
from oellm.manifest.model_key import ModelKey
from oellm.manifest.rows import Row
from oellm.models import identity as model_identity
from oellm.models.model_digests import ModelDigests
from oellm.models.staging import Source
from oellm.runs import provenance
from oellm.runs.answers import Answers

# After these errors, an accelerator rejects every further call of the process.
_BROKEN = ("CUDA error", "HIP error", "cuDNN error", "NCCL error", "device-side assert")


class LmEvalModel:
    """One process's use of lm-eval's models; keeps the one that was loaded last."""

    replaceable = False
    origin = ""

    def __init__(self, log: Log) -> None:
        environment.prepare()
        import lm_eval.models  # noqa: F401

        patches.patch_libraries()
        self._log = log
        self._environment = ""
        # Describing the machine takes a moment; the model loads meanwhile.
        self._describing = threading.Thread(target=self._describe_environment, daemon=True)
        self._describing.start()
        self._scoring: scoring.Scoring | None = None

    def load(self, key: ModelKey, row: Row, source: Source) -> Handle:
        """Load the row's model in place of the one that is loaded."""
        from lm_eval.api.registry import get_model

        backend = get_model(key.backend)
        started = time.perf_counter()
        self._unload()
        # If loading fails halfway, nothing is left behind, except by backends that start
        # processes of their own.
        self.replaceable = key.backend == "hf"
        arguments = load_arguments(key, row)
        loaded = backend.create_from_arg_obj(
            # lm-eval's command line passes cuda:0, too; without a GPU it means the CPU.
            {"device": "cuda:0", **arguments, "pretrained": source.path},
            {"batch_size": row.value("batch_size") or 1},
        )
        self._scoring = scoring.Scoring(loaded, self._log)
        self.replaceable = self._scoring.module is not None
        identity = model_identity.identify_model(
            row.model.path,
            row["model_revision"] or str(row.model_arguments.get("revision", "")),
            str(row.model_arguments.get("subfolder", "")),
            gguf_file=str(row.model_arguments.get("gguf_file") or ""),
        )
        # The digest is also of the directories of a tokenizer and an adapter.
        contents = [identity.to_json(), ModelDigests().digest(row)]
        self.origin = json.dumps([key, contents, environment.package_versions()], sort_keys=True)
        info = loaded.get_model_info() if hasattr(loaded, "get_model_info") else {}
        accelerator = provenance.accelerator_facts()
        seconds = time.perf_counter() - started + (source.staged_s or 0.0)
        versions = environment.package_versions()
        self._log(
            f"node {socket.gethostname()}, {provenance.describe_devices(accelerator)}, "
            f"lm-eval {versions['lm_eval']}: model {row.model.path} loaded in {seconds:.1f} s, "
            f"batch size {row.value('batch_size') or 1}"
        )
        return Handle(
            backend=key.backend,
            arguments=",".join(f"{name}={_shown(value)}" for name, value in arguments.items()),
            info=info,
            tokenizer_info=_tokenizer_info(loaded),
            light_attributes=_light_attributes(loaded),
            is_multimodal=bool(getattr(loaded, "MULTIMODAL", False)),
            identity=identity,
            accelerator=accelerator,
            dtype=_dtype(loaded, info),
            seconds=seconds,
            staged_s=source.staged_s,
        )

    def answer(self, call: Call, answers: Answers | None, go_on: GoOn) -> CallReply:
        """Call a method of the loaded model."""
        assert self._scoring is not None
        if not call.keys:
            returned = getattr(self._scoring.model, call.method)(*call.arguments)
            return CallReply(
                answers=returned,
                usage=messages.Usage(),
                batch_sizes={},
                environment="",
                generators=b"",
            )
        scores, usage = self._scoring.score(call, answers, go_on)
        self._describing.join()
        return CallReply(
            answers=scores,
            usage=usage,
            batch_sizes=dict(getattr(self._scoring.model, "batch_sizes", {})),
            environment=self._environment,
            generators=scoring.generator_states(),
        )

    def is_broken_by(self, error: BaseException) -> bool:
        """Return whether an accelerator rejects all further calls after this error."""
        if type(error).__name__ == "AcceleratorError":
            return True
        return not scoring.is_out_of_memory(error) and any(sign in str(error) for sign in _BROKEN)

    def _describe_environment(self) -> None:
        self._environment = patches.environment_text()

    def _unload(self) -> None:
        if self._scoring is None:
            return
        self._scoring = None
        scoring.free_memory()


def create_model(log: Log) -> LmEvalModel:
    """Import lm-eval; return its models, with none loaded."""
    return LmEvalModel(log)


def _dtype(model: Any, info: Mapping[str, Any]) -> str:
    """Return the type of a model's weights, without torch's prefix; empty if it does not tell."""
    found = info.get("model_dtype")
    # vLLM keeps its configuration in the engine.
    engine = getattr(getattr(model, "model", None), "llm_engine", None)
    found = found or getattr(getattr(engine, "model_config", None), "dtype", None)
    return str(found or "").removeprefix("torch.")


def _shown(value: Any) -> str:
    """Return a value of a model argument as text; lists and objects are JSON."""
    return json_text(value) if isinstance(value, (list, dict)) else str(value)


def _tokenizer_info(model: Any) -> dict[str, Any]:
    from lm_eval.loggers.utils import add_tokenizer_info

    info: dict[str, Any] = {}
    add_tokenizer_info(info, model)
    return info


def _light_attributes(model: Any) -> bytes:
    """Return the attributes that tokenising needs, pickled; empty if that is impossible.

    Only lm-eval's models on transformers are supported: the classes of other backends import the
    backend.
    """
    from lm_eval.models.huggingface import HFLM

    if type(model) is not HFLM:
        return b""
    try:
        return pickle.dumps(patches.tokenizing_attributes(model))
    # The tokenizer may be of a class that came with the model.
    except Exception:
        return b""
