"""The columns of metric records: those of schema.json, and behind them those of a user's manifest.

A manifest may have columns that oellm does not know, for example of an experiment or a mix of data.
They pass through to the metric records, as texts. One that is called like a column of metric
records that the manifest's schema does not have, such as `value`, gets the prefix `manifest_`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from oellm.core import schema
from oellm.errors import UsageError, nearest

_PREFIX = "manifest_"
# Columns that oellm knows, and records show if the manifest has them.
_SHOWN = ("model_args", "gen_kwargs")


def extra_names(manifest: Iterable[str]) -> Mapping[str, str]:
    """Return the names in metric records of the columns of a manifest that pass through."""
    return _extra_names(tuple(manifest))


@functools.lru_cache(256)
def _extra_names(manifest: tuple[str, ...]) -> Mapping[str, str]:
    known, taken = schema.table("manifest"), schema.table("metric")
    extra = (n for n in manifest if n in _SHOWN or (n not in known and n.strip()))
    return {name: _PREFIX + name if name in taken else name for name in extra}


def column_types(columns: Iterable[str]) -> dict[str, str]:
    """Return the type of each of some columns, as in schema.json."""
    table = schema.table("metric")
    return {name: table[name]["type"] if name in table else "text" for name in columns}


def require_columns(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError, naming the option, if one of some columns is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UsageError(f"{option}: unknown column {name!r}{nearest(name, known)}")
