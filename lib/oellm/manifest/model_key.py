"""The key of a loaded model: rows with the same key can be evaluated on it."""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

from oellm.manifest.rows import Row


class ModelKey(NamedTuple):
    """What rows must share to be evaluated on one loaded model; each field is a column of theirs.

    Attributes:
        model_args: As canonical JSON.
    """

    eval_suite: str
    model_path: str
    model_revision: str
    backend: str
    dtype: str
    tp: int = 1
    trust_remote_code: bool = False
    model_args: str = "{}"


def model_key(row: Row) -> ModelKey:
    """Return the key of a checked row's model."""
    return _model_key(*map(row.cells.get, ModelKey._fields))


@functools.lru_cache(8192)
def _model_key(*texts: str | None) -> ModelKey:
    """Return the key of a row with these texts, in the order of the key's fields."""
    cells = dict(zip(ModelKey._fields, (text or "" for text in texts), strict=True))
    typed = Row(cells).typed
    return ModelKey(
        eval_suite=typed.eval_suite,
        model_path=str(typed.model),
        model_revision=typed.model_revision,
        backend=typed.backend,
        dtype=typed.dtype,
        tp=typed.tp,
        trust_remote_code=typed.trust_remote_code,
        model_args=json.dumps(dict(typed.model_args), sort_keys=True),
    )
