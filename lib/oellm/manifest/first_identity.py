"""What cells added to the identity when each spelling of an argument had an identity of its own.

`trust_remote_code=True` and `=true` were two models. A row that got its eval_id then keeps it.
"""

from __future__ import annotations

import json
from typing import Any

from oellm.core.json_config import parse_json


def first_member(column: str, text: str) -> str:
    """Return what a checked cell of one of FIRST_MEMBERS added; empty if nothing."""
    if not text:
        return ""
    value: Any = _model(text) if column == "model_path" else _arguments(text)
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f'"{column}":{canonical}'


FIRST_MEMBERS = ("model_path", "model_args", "gen_kwargs")


def _model(text: str) -> list[Any]:
    path, *rest = text.split(",")
    return [path.strip(), _pairs(rest)]


def _arguments(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return _pairs(text.split(","))
    return {
        name: value if isinstance(value, (str, list, dict)) else json.dumps(value)
        for name, value in parse_json(text).items()
    }


def _pairs(pieces: list[str]) -> dict[str, str]:
    pairs = (piece.partition("=") for piece in pieces)
    return {key.strip(): value.strip() for key, _, value in pairs}
