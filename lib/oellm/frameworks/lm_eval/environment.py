"""lm-evaluation-harness: what it needs of a process before it is imported, and its versions."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys

from oellm.errors import MachineError
from oellm.hub import data_sets

# Set by launchers; a single process that finds them waits for others, or writes nothing.
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
# The first release whose TaskManager is the one that is used here.
_OLDEST = (0, 4, 12)
_VERSIONED = ("lm_eval", "torch", "transformers", "datasets")
# In messages of lm-eval about its own command line, about shots, which the row says, and about
# metrics that its tasks do not describe.
_ADVICE = (
    "Custom kwargs can be passed",
    "Overwriting default num_fewshot",
    "but aggregation is not. using default",
    "but higher_is_better is not. using default",
)
# Templates that are kept; a task has some five.
_TEMPLATES = 512


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


def mend() -> None:
    """Put right, in the imported libraries, what costs time or does not work offline."""
    _keep_templates()
    _filter_log()
    data_sets.install()


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


class _Once(logging.Filter):
    """Lets each text through once, whatever its numbers: lm-eval warns for each request."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = re.sub(r"\d+", "0", record.getMessage())
        if text in self._told or any(part in text for part in _ADVICE):
            return False
        self._told.add(text)
        return True


def _filter_log() -> None:
    logger = logging.getLogger("lm_eval")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("lm_eval: %(message)s"))
    handler.addFilter(_Once())
    logger.handlers[:] = [handler]
    logger.propagate = False


def _keep_templates() -> None:
    """Compile each prompt template once: lm-eval does it anew for each document, 1 ms each time."""
    import lm_eval.utils

    compiling = lm_eval.utils.env.from_string
    if not hasattr(compiling, "cache_info"):
        lm_eval.utils.env.from_string = functools.lru_cache(_TEMPLATES)(compiling)
