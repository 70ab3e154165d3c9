"""schema.json, the one list of columns, settings and keys, and the kinds of their values.

`KINDS` says for each type of schema.json how a text is parsed, which JSON values are of it, and
what an error says was expected. manifest/cells.py adds the kinds that only manifests have.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from oellm.core.json_config import parse_json

VERSION = 1

Table = dict[str, dict[str, Any]]

# Python's own parsers also take other digits than ASCII ones, and underscores between digits.
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DURATION = re.compile(
    r"([0-9]{1,6}-)?[0-9]{1,9}(:[0-9]{1,2}){0,2}|UNLIMITED|INFINITE", re.ASCII | re.IGNORECASE
)
# Letters of a value that a message shows.
_LONGEST_SHOWN = 120
_BOOLEANS = {"true": True, "false": False}


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


def shown_columns(name: str) -> list[str]:
    """Return the columns of a table that people see; programs get all."""
    return [key for key, spec in table(name).items() if spec.get("shown")]


def spare_columns(name: str) -> list[str]:
    """Return the columns that a table on a narrow terminal does without, the first one first."""
    spare = [(spec["spare"], key) for key, spec in table(name).items() if "spare" in spec]
    return [key for _, key in sorted(spare)]


def count_columns(name: str) -> frozenset[str]:
    """Return the columns of numbers with a unit, such as documents; scores have none."""
    return frozenset(key for key, spec in table(name).items() if "unit" in spec)


class Kind(NamedTuple):
    """A kind of values.

    Attributes:
        meaning: What a value is; an error says `expected MEANING, got …`.
        parse: Returns the value of a text; raises ValueError if it has none.
        check: Returns the value of something that JSON has read; raises ValueError if it is not of
            the kind.
    """

    meaning: str
    parse: Callable[[str], Any]
    check: Callable[[Any], Any]


def unexpected(meaning: str, value: object) -> ValueError:
    """Return the error that says what was expected, and what is there."""
    return ValueError(f"expected {meaning}, got {_shown(value)}")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"


def _parse_number(text: str) -> int | float | None:
    """Return the finite number that a text is in ASCII digits, with or without blanks, or None."""
    text = text.strip()
    try:
        if _INTEGER.fullmatch(text):
            return _number(int(text))
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:
        # Python refuses to parse integers of thousands of digits.
        return None
    return number if math.isfinite(number) else None


def _kind(meaning: str, read: Callable[[Any], Any]) -> Kind:
    """Return a kind whose values are read from texts and from JSON by one function.

    The function returns None for what is no value of the kind.
    """

    def require(value: Any) -> Any:
        found = read(value)
        if found is None:
            raise unexpected(meaning, value)
        return found

    return Kind(meaning, require, require)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        return _parse_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        # An integer of hundreds of digits.
        return None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _count(value: Any) -> int | None:
    # Tools that know floating-point numbers only write 5.0.
    if isinstance(value, str) and not re.fullmatch(r"[0-9]+(\.0*)?", value.strip()):
        return None
    number = _integer(value)
    return number if number is not None and number >= 0 else None


def _positive(value: Any) -> int | None:
    return _count(value) or None


def _boolean(value: Any) -> bool | None:
    found = _BOOLEANS.get(value.lower()) if isinstance(value, str) else value
    return found if isinstance(found, bool) else None


def _duration(value: Any) -> str | None:
    return value if isinstance(value, str) and _DURATION.fullmatch(value) else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value) else None


def _parse_json(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        reason = getattr(error, "msg", error)
        raise ValueError(f"expected JSON: {reason} in {_shown(text)}") from None


def _parse_list(text: str) -> Any:
    if text.lstrip().startswith("["):
        return _parse_json(text)
    return [item.strip() for item in text.split(",") if item.strip()]


def _check_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise unexpected("a list", value)
    return value


def _check_map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise unexpected("an object", value)
    return value


KINDS: dict[str, Kind] = {
    "text": _kind("text", _text),
    "path": _kind("a path", _text),
    "time": _kind("a time", _text),
    "word": _kind("one word", _word),
    "number": _kind("a number", _number),
    "integer": _kind("an integer", _integer),
    "count": _kind("a non-negative integer", _count),
    "positive": _kind("a positive integer", _positive),
    "boolean": _kind("true or false", _boolean),
    "duration": _kind("[days-]hours:minutes:seconds", _duration),
    "list": Kind("a list", _parse_list, _check_list),
    "map": Kind("an object", _parse_json, _check_map),
}
