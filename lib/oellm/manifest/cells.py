"""The columns of manifests: what the text of a cell means, worked out once for each text.

A manifest of a million rows has few texts in most of its columns, each of them many times.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, NamedTuple

from oellm.core import schema

# A column remembers so many texts, none of them longer: some megabytes at most.
_TEXTS = 8192
_LONGEST = 256

# Neither a file's name nor the results can hold them (the latter: bytes that are no text).
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


class Cell(NamedTuple):
    """What a text means in its column."""

    # As schema.parse returns it; the column's default where the text is empty.
    value: Any
    # The member of the identity's JSON object, `"limit":5`; empty where the cell adds none.
    member: str


class Column(dict[str, Cell]):
    """A column by the texts of its cells: `column[text]`.

    A text that is no value of the column raises ValueError with `expected …, got …`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._empty = Cell(schema.table("manifest").get(name, {}).get("default"), "")

    def __missing__(self, text: str) -> Cell:
        cell = self._meaning(text) if text else self._empty
        if len(self) == _TEXTS:
            self.clear()
        if len(text) <= _LONGEST:
            self[text] = cell
        return cell

    def _meaning(self, text: str) -> Cell:
        value = schema.parse(self._name, text)
        member = ""
        if self._name in identity_columns() and value != self._empty.value:
            canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            member = f'"{self._name}":{canonical}'
        # JSON in a cell can spell what the text itself does not have.
        if _NO_TEXT.search(text) or _NO_TEXT.search(member):
            raise ValueError(f"expected UTF-8 text without NUL, got {text!r}")
        return Cell(value, member)


class _Columns(dict[str, Column]):
    def __missing__(self, name: str) -> Column:
        return self.setdefault(name, Column(name))


# The columns by name; one that the schema does not know takes any text.
COLUMNS = _Columns()


@functools.cache
def identity_columns() -> frozenset[str]:
    """Return the names of the columns that change a score."""
    table = schema.table("manifest")
    return frozenset(name for name, spec in table.items() if spec.get("identity"))
