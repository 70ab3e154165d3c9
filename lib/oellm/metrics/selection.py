"""Which metric records are wanted, and in which order: conditions on columns, sort keys."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.core.tables import text
from oellm.errors import UsageError, nearest
from oellm.manifest.checkpoint_names import natural_key
from oellm.metrics.records import Record

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=(?!=)|<|>)\s*(.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(NamedTuple):
    """What the value of a column must be."""

    column: str
    # One of =, !=, <, <=, >, >=.
    relation: str
    # Of = and !=, what fnmatch understands, for the text of the value.
    pattern: str
    # What the pattern is as a number, if it is one.
    number: float | None

    @classmethod
    def parse(cls, given: str) -> Condition:
        """Parse `COLUMN=PATTERN` and its like; raises UsageError for anything else."""
        match = _CONDITION.fullmatch(given)
        if match is None:
            raise UsageError(
                "--filter: expected COLUMN=PATTERN, COLUMN!=PATTERN or, for numbers, "
                f"COLUMN<NUMBER, <=, > or >=, got {given!r}"
            )
        column, relation, pattern = match.groups()
        _require_column("--filter", column)
        number = float(pattern) if _NUMBER.fullmatch(pattern) else None
        if relation in _ORDERS:
            if schema.table("metric")[column]["type"] not in ("integer", "number"):
                raise UsageError(f"--filter: {column} holds no numbers: expected = or != after it")
            if number is None:
                raise UsageError(
                    f"--filter: expected a number after {column}{relation}, got {pattern!r}"
                )
        return cls(column, relation, pattern, number)

    def holds(self, record: Record) -> bool:
        """Return whether a record fulfils it; an empty value is neither less nor greater."""
        value = record[self.column]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if order := _ORDERS.get(self.relation):
            return is_number and order(value, self.number)
        if is_number and self.number is not None:
            is_equal = bool(value == self.number)
        else:
            is_equal = fnmatchcase(text(value), self.pattern)
        return is_equal == (self.relation == "=")


class SortKey(NamedTuple):
    """A column to sort by."""

    column: str
    is_descending: bool


class Selection(NamedTuple):
    """The records that are wanted, and their order; without keys, that in which they come."""

    conditions: list[Condition]
    keys: list[SortKey]
    primary_only: bool

    @classmethod
    def parse(cls, conditions: Sequence[str], keys: str, primary_only: bool) -> Selection:
        """Parse the values of --filter and of --sort; raises UsageError for a bad one."""
        return cls([Condition.parse(one) for one in conditions], _keys(keys), primary_only)

    def of(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that are wanted; streams where no order is asked for.

        All conditions must hold, but of several `=` on one column any.
        """
        return iter(self.ordered(self.kept(records)))

    def ordered(self, records: Iterable[Record]) -> Iterable[Record]:
        """Return records in the order that is asked for."""
        # Each sort keeps the order of the one before: the last key first.
        for key in reversed(self.keys):
            records = _sorted(list(records), key)
        return records

    def kept(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that are wanted, in the order in which they come."""
        if not self.conditions and not self.primary_only:
            return iter(records)
        return self._kept(records)

    def _kept(self, records: Iterable[Record]) -> Iterator[Record]:
        alternatives: dict[str, list[Condition]] = {}
        for condition in self.conditions:
            if condition.relation == "=":
                alternatives.setdefault(condition.column, []).append(condition)
        others = [condition for condition in self.conditions if condition.relation != "="]
        for record in records:
            if (
                (record["is_primary"] or not self.primary_only)
                and all(condition.holds(record) for condition in others)
                and all(any(one.holds(record) for one in some) for some in alternatives.values())
            ):
                yield record


def split_columns(option: str, names: str) -> list[str]:
    """Split a comma-separated list of columns; raises UsageError where one does not exist."""
    columns = list(filter(None, map(str.strip, names.split(","))))
    for column in columns:
        _require_column(option, column)
    return list(dict.fromkeys(columns))


def _require_column(option: str, column: str) -> None:
    known = schema.table("metric")
    if column not in known:
        raise UsageError(f"{option}: no column is called {column!r}{nearest(column, known)}")


def _keys(names: str) -> list[SortKey]:
    keys = []
    for name in filter(None, map(str.strip, names.split(","))):
        column = name.removeprefix("-").strip()
        _require_column("--sort", column)
        keys.append(SortKey(column, name.startswith("-")))
    return keys


def _sorted(records: Sequence[Record], key: SortKey) -> list[Record]:
    """Return the records by one column, those without a value last; others stay as they are."""
    column = key.column
    full = [record for record in records if record[column] not in (None, "")]
    empty = [record for record in records if record[column] in (None, "")]
    # Many records share few values.
    values = sorted({record[column] for record in full}, key=_rank, reverse=key.is_descending)
    places = {value: place for place, value in enumerate(values)}
    return [*sorted(full, key=lambda record: places[record[column]]), *empty]


def _rank(value: Any) -> tuple[float, Any]:
    """Return a key by which numbers come before texts, and texts are ordered naturally."""
    if isinstance(value, (int, float)):
        return (value, [])
    return (float("inf"), natural_key(str(value)))
