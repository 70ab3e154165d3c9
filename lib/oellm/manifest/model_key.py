"""What rows share that one loaded model can serve."""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

from oellm.manifest.rows import Row


class ModelKey(NamedTuple):
    """What rows must share to be evaluated on one loaded model; each field is a column of them."""

    eval_suite: str
    model_path: str
    model_revision: str
    backend: str
    dtype: str
    tp: int = 1
    trust_remote_code: bool = False
    # As canonical JSON.
    model_args: str = "{}"


def model_key(row: Row) -> ModelKey:
    """Return what the row's model is loaded by; the row is a checked one."""
    return _model_key(*map(row.cells.get, ModelKey._fields))


@functools.lru_cache(8192)
def _model_key(*texts: str | None) -> ModelKey:
    """Return the key of a row with these texts, in the order of the key's fields."""
    cells = dict(zip(ModelKey._fields, (text or "" for text in texts), strict=True))
    row = Row(cells)
    return ModelKey(
        row.value("eval_suite"),
        str(row.model),
        row["model_revision"],
        row.value("backend"),
        row["dtype"],
        row.value("tp") or 1,
        bool(row.value("trust_remote_code")),
        json.dumps(row.value("model_args") or {}, sort_keys=True),
    )
