"""The process environment that lm-eval needs before it is imported, and versions of packages."""

from __future__ import annotations

import os
import re
import sys

from oellm.errors import MachineError
from oellm.frameworks.lm_eval.messages import Handle
from oellm.runs import provenance
from oellm.runs.environment import Environment

# Launchers set these; in a single process lm-eval would wait for others, or write nothing.
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
# The first release whose TaskManager works with our index.
_OLDEST = (0, 4, 12)
_VERSIONED = ("lm_eval", "torch", "transformers", "datasets")


def prepare() -> None:
    """Set the environment of this process; raises MachineError if lm-eval is too old."""
    _require_version()
    for variable in _DISTRIBUTED:
        os.environ.pop(variable, None)
    # Bootstrapping in worker processes would fork a process that may have threads, and use more
    # cores than the job has.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # By default vLLM forks, which fails once anything has asked CUDA for the number of GPUs.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def package_versions() -> dict[str, str]:
    """Return the versions of those packages that scores depend on and that are imported."""
    modules = {name: sys.modules.get(name) for name in _VERSIONED}
    versions = {name: getattr(module, "__version__", None) for name, module in modules.items()}
    if versions["lm_eval"] is None:
        import importlib.metadata

        versions["lm_eval"] = importlib.metadata.version("lm_eval")
    return {name: str(version) for name, version in versions.items() if version}


def describe_environment(handle: Handle) -> Environment:
    """Return what scores of a loaded model are computed with."""
    gpus = [str(gpu["name"]) for gpu in handle.accelerator.get("gpus", [])]
    return Environment(
        framework_version=package_versions()["lm_eval"],
        backend=handle.backend,
        dtype=handle.dtype,
        hardware=f"{len(gpus)} × {gpus[0]}" if gpus else provenance.cpu_model("/"),
    )


def find_version_fault(version: str) -> str:
    """Return why oellm does not work with a version of lm-eval; empty if it does."""
    if tuple(map(int, re.findall(r"[0-9]+", version)[:3])) >= _OLDEST:
        return ""
    oldest = ".".join(map(str, _OLDEST))
    return f"lm-eval {version} is too old, {oldest} is the oldest that oellm works with"


def _require_version() -> None:
    import importlib.metadata

    if fault := find_version_fault(importlib.metadata.version("lm_eval")):
        raise MachineError(f"{fault}: use another image or environment")
