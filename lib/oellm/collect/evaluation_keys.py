"""Which evaluations are the same, where a result has no eval_id: by all that it tells."""

from __future__ import annotations

import hashlib
from typing import Any

from oellm.manifest.rows import Row

# Values of model arguments that say no more than their absence.
_DEFAULTS = {"dtype": "auto", "revision": "main"}
# Arguments that change no score.
_HARMLESS = ("trust_remote_code",)
# What results of other tools tell besides the model; what they leave out has its default.
_COLUMNS = (
    *("task_path", "n_shot", "limit", "eval_suite", "backend", "seed", "gen_kwargs"),
    *("apply_chat_template", "fewshot_as_multiturn", "system_instruction"),
)


def of_row(row: Row) -> str:
    """Return a key that two rows share if what a result of another tool tells is exactly equal.

    That is the model with its arguments, and the cells of _COLUMNS:
    `iter_1000` is not `iter_10000`, and shots that a row leaves to the task are no number of shots.
    """
    arguments = {"dtype": row["dtype"], **row.model_arguments}
    told = sorted(
        (name, str(value))
        for name, value in arguments.items()
        if name not in _HARMLESS and value not in ("", _DEFAULTS.get(name))
    )
    settings = [_plain(row.value(name)) for name in _COLUMNS]
    return hashlib.sha256(repr((row.model.path, told, settings)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as it is compared: what is switched off is not there."""
    if isinstance(value, dict):
        return sorted((name, str(item)) for name, item in value.items()) or None
    return None if value is False else value
