"""Results that other tools wrote: lm-eval, bigcode, bigcodebench, evalplus, lighteval."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from oellm.core import json_codec
from oellm.frameworks.bigcode_eval import results as bigcode_eval
from oellm.frameworks.bigcodebench import results as bigcodebench
from oellm.frameworks.evalplus import results as evalplus
from oellm.frameworks.lighteval import results as lighteval
from oellm.frameworks.lm_eval import results as lm_eval
from oellm.frameworks.reading.values import Object
from oellm.metrics.scored_rows import ScoredRow

# Each returns None for a document that is none of its framework's.
_READERS: tuple[Callable[[Object, str], list[ScoredRow] | None], ...] = (
    lm_eval.scored_rows,
    lighteval.scored_rows,
    bigcode_eval.scored_rows,
    bigcodebench.scored_rows,
    evalplus.scored_rows,
)


def read(content: bytes, path: str) -> list[ScoredRow] | None:
    """Return what a result file of another tool says, one row for each thing it was asked for.

    None where it is JSON, but no result that is known here, or where another file stands for it;
    a result of ours is none. `path` names the file: some tools tell the model, or the time, only
    there. Metrics without a finite value are left out, which the remarks of their row say.
    Raises ValueError, with the reason, where the file is damaged or has no metric at all.
    """
    document = _parsed(content)
    if not isinstance(document, dict) or "oellm" in document:
        return None
    for scored_rows in _READERS:
        found = scored_rows(document, path)
        if found is not None:
            if not any(scored.metrics for scored in found):
                raise ValueError("no metric has a finite value")
            return found
    return None


def _parsed(content: bytes) -> Any:
    """Return the JSON of a file, in which Python writes NaN and Infinity, too."""
    if not content.strip():
        raise ValueError("the file is empty")
    try:
        return json_codec.loads(content)
    except ValueError:
        pass
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
