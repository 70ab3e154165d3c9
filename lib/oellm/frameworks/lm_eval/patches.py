"""Changes to lm-eval while it runs, each with its reason."""

from __future__ import annotations

import functools
import logging
import re

from oellm.hub import data_sets

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


def mend() -> None:
    """Put right, in the imported libraries, what costs time or does not work offline."""
    _keep_templates()
    _filter_log()
    data_sets.install()


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
