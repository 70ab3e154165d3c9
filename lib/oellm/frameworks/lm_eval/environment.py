"""lm-evaluation-harness: what it needs of a process before it is imported, and its versions."""

from __future__ import annotations

import os
import re
import sys

from oellm.errors import MachineError

# Set by launchers; a single process that finds them waits for others, or writes nothing.
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
# The first release whose TaskManager is the one that is used here.
_OLDEST = (0, 4, 12)
_VERSIONED = ("lm_eval", "torch", "transformers", "datasets")


def prepare() -> None:
    """Set the environment of this process; raises MachineError where lm-eval is too old."""
    _require_version()
    for variable in _DISTRIBUTED:
        os.environ.pop(variable, None)
    # Bootstrapping in worker processes would fork a process that may have threads, and ignore the
    # job's cores.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # By default vLLM forks, which fails where anything has asked CUDA for the number of GPUs.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def versions() -> dict[str, str]:
    """Return the versions of the packages that a score depends on, of those that are imported."""
    found = {name: sys.modules.get(name) for name in _VERSIONED}
    known = {name: getattr(module, "__version__", None) for name, module in found.items()}
    if known["lm_eval"] is None:
        import importlib.metadata

        known["lm_eval"] = importlib.metadata.version("lm_eval")
    return {name: str(version) for name, version in known.items() if version}


def _require_version() -> None:
    import importlib.metadata

    version = importlib.metadata.version("lm_eval")
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise MachineError(
            f"lm-eval {version} is too old, {oldest} is the first that oellm works with: "
            "use another image or environment"
        )
