"""The list of all columns and keys (schema.json) and the types of their values.

`parse` turns the text of a manifest cell into its value; everything that reads cells uses it, so
that a spelling (`5`, `05`) never makes a difference.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

VERSION = 1

Table = dict[str, dict[str, Any]]


@functools.cache
def tables() -> dict[str, Table]:
    """Return the tables of schema.json: manifest, cluster, run, result, metric."""
    # The loader, not open(): the frozen worker reads this file from inside its archive.
    loader: Any = __spec__.loader
    data = loader.get_data(os.path.join(os.path.dirname(__file__), "schema.json"))
    loaded = json.loads(data)
    return {name: table for name, table in loaded.items() if isinstance(table, dict)}


def table(name: str) -> Table:
    """Return one table: column or key name to its type, unit and meaning, in order."""
    return tables()[name]


def required(name: str) -> list[str]:
    """Return the columns of a table that must be there."""
    return [key for key, spec in table(name).items() if spec.get("required")]
