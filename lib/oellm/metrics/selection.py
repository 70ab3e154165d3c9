"""Filters and order of metric records: conditions on columns, and sort keys."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.core.tables import cell_text
from oellm.errors import UsageError
from oellm.manifest.checkpoint_names import natural_key
from oellm.metrics.records import MetricRecord

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=(?!=)|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(NamedTuple):
    """A condition on the value of a column.

    Attributes:
        relation: one of =, !=, <, <=, >, >=.
        pattern: for = and !=, a pattern of fnmatch for the text of the value.
        number: the pattern as a number, None if it is none.
    """

    column: str
    relation: str
    pattern: str
    number: float | None

    @classmethod
    def parse(cls, expression: str, option: str) -> Condition:
        """Parse `COLUMN=PATTERN` and its like; raises UsageError, naming the option, for others."""
        match = _CONDITION.fullmatch(expression)
        if match is None:
            raise UsageError(
                f"{option}: expected COLUMN=PATTERN, COLUMN!=PATTERN or, for numbers, "
                f"COLUMN<NUMBER, <=, > or >=, got {expression!r}"
            )
        column, relation, pattern = match.groups()
        number = _parse_number(pattern)
        if relation in _ORDERS:
            kind = schema.table("metric").get(column, {}).get("type", "number")
            if kind not in ("integer", "number"):
                raise UsageError(f"{option}: {column} holds no numbers: expected = or != after it")
            if number is None:
                raise UsageError(
                    f"{option}: expected a number after {column}{relation}, got {pattern!r}"
                )
        return cls(column=column, relation=relation, pattern=pattern, number=number)

    def holds(self, record: MetricRecord) -> bool:
        """Return whether a record fulfils it; an empty value is neither less nor greater."""
        value = record.value_in(self.column)
        if isinstance(value, str) and self.relation in _ORDERS:
            # A user's own column.
            value = _parse_number(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if order := _ORDERS.get(self.relation):
            return is_number and order(value, self.number)
        if is_number and self.number is not None:
            is_equal = bool(value == self.number)
        else:
            is_equal = fnmatchcase(cell_text(value), self.pattern)
        return is_equal == (self.relation == "=")


class SortKey(NamedTuple):
    """A column to sort by."""

    column: str
    is_descending: bool


class RecordSelection(NamedTuple):
    """The records that a user wants, and their order.

    Attributes:
        keys: the first counts most; without keys, records stay in the order in which they come.
        named: by option, the columns that the user named; records need not have them.
    """

    conditions: list[Condition]
    keys: list[SortKey]
    primary_only: bool
    named: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def parse(
        cls, conditions: Mapping[str, Sequence[str]], keys: str, primary_only: bool
    ) -> RecordSelection:
        """Parse the values of options like --filter, by option, and of --sort.

        Raises UsageError for a bad one. Whether there are such columns is known later: a user's
        manifest may have columns of its own.
        """
        parsed, named = [], []
        for option, expressions in conditions.items():
            of_option = [Condition.parse(expression, option) for expression in expressions]
            named.append((option, tuple(condition.column for condition in of_option)))
            parsed += of_option
        sorting = _parse_keys(keys)
        named.append(("--sort", tuple(key.column for key in sorting)))
        return cls(parsed, sorting, primary_only=primary_only, named=tuple(named))

    def select(self, records: Iterable[MetricRecord]) -> Iterator[MetricRecord]:
        """Yield the wanted records in their order; streams if there are no sort keys.

        All conditions must hold, but of several `=` on one column only one.
        """
        return iter(self.sort(self.keep(records)))

    def sort(self, records: Iterable[MetricRecord]) -> Iterable[MetricRecord]:
        """Return records in the wanted order."""
        # Sorting is stable, so the last key is sorted by first.
        for key in reversed(self.keys):
            records = _sort_by(list(records), key)
        return records

    def keep(self, records: Iterable[MetricRecord]) -> Iterator[MetricRecord]:
        """Yield the wanted records, in the order in which they come."""
        if not self.conditions and not self.primary_only:
            return iter(records)
        return self._keep(records)

    def _keep(self, records: Iterable[MetricRecord]) -> Iterator[MetricRecord]:
        alternatives: dict[str, list[Condition]] = {}
        for condition in self.conditions:
            if condition.relation == "=":
                alternatives.setdefault(condition.column, []).append(condition)
        others = [condition for condition in self.conditions if condition.relation != "="]
        for record in records:
            if (
                (record.is_primary or not self.primary_only)
                and all(condition.holds(record) for condition in others)
                and all(any(one.holds(record) for one in some) for some in alternatives.values())
            ):
                yield record


def _parse_number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        number: float = schema.KINDS["number"].parse(text)
        return number
    return None


def split_columns(names: str) -> list[str]:
    """Split a comma-separated list of columns; each counts once."""
    return list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))


def _parse_keys(names: str) -> list[SortKey]:
    return [
        SortKey(name.removeprefix("-").strip(), name.startswith("-"))
        for name in filter(None, map(str.strip, names.split(",")))
    ]


def _sort_by(records: Sequence[MetricRecord], key: SortKey) -> list[MetricRecord]:
    """Return records ordered by one column; those without a value come last."""
    value_of = operator.methodcaller("value_in", key.column)
    full = [record for record in records if value_of(record) not in (None, "")]
    empty = [record for record in records if value_of(record) in (None, "")]
    # Ranks are worked out once for each distinct value: many records share a few values.
    values = sorted(set(map(value_of, full)), key=_rank, reverse=key.is_descending)
    places = {value: place for place, value in enumerate(values)}
    return [*sorted(full, key=lambda record: places[value_of(record)]), *empty]


def _rank(value: Any) -> tuple[float, Any]:
    """Return a sort key: numbers come before texts, and texts are in natural order."""
    if isinstance(value, (int, float)):
        return (value, [])
    return (float("inf"), natural_key(str(value)))
