"""JSON that people write, whose values know their place in the file, so that errors can name it."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from oellm.core.regular_files import read_regular
from oellm.errors import InputError, nearest

# Levels that lists and objects may be nested: what works with them may be recursive.
DEEPEST = 50
# Digits of a number; Python refuses thousands.
_LONGEST_INTEGER = 300


class Node(NamedTuple):
    """A value of a JSON file.

    Attributes:
        value: The value, as `json` reads it.
        source: The file.
        place: Where it is in the file: `groups.mine.tasks[2]`; empty for the whole.
    """

    value: Any
    source: str
    place: str = ""

    def error(self, message: str) -> InputError:
        """Return an error about this value."""
        return InputError(message, self.source, column=self.place)

    def unlike(self, expected: str) -> InputError:
        """Return the error that says what was expected instead of this value."""
        shown = json.dumps(self.value, ensure_ascii=False)
        return self.error(f"expected {expected}, got {shown[:80]}{'…' * (len(shown) > 80)}")

    def members(
        self, known: Collection[str] | None = None, required: Iterable[str] = ()
    ) -> dict[str, Node]:
        """Return the members of an object; with `known`, any other key is an error."""
        if not isinstance(self.value, dict):
            raise self.unlike("an object")
        for key in self.value:
            if known is not None and key not in known:
                raise self.error(f"unknown key {key!r}{nearest(key, known)}")
        for key in required:
            if key not in self.value:
                raise self.error(f"the key {key!r} is missing")
        prefix = f"{self.place}." if self.place else ""
        return {key: Node(value, self.source, prefix + key) for key, value in self.value.items()}

    def items(self, of: str) -> list[Node]:
        """Return the items of a list that is not empty; `of` says what they are."""
        if not isinstance(self.value, list) or not self.value:
            raise self.unlike(f"a list of {of}")
        return [
            Node(value, self.source, f"{self.place}[{index}]")
            for index, value in enumerate(self.value)
        ]

    def text(self) -> str:
        """Return a text that is not empty."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.unlike("a text")
        return self.value


class WrongValueError(ValueError):
    """A value that JSON may not have; `place` is where it is, as in Node."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


class _Wrong(NamedTuple):
    """Stands for a wrong value until all is read, because only then its place is known."""

    message: str


def parse_json(text: str) -> Any:
    """Parse JSON that people write.

    Raises ValueError also if the JSON is nested more than DEEPEST levels deep, and WrongValueError
    if an object has a key twice or if a number is not finite.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_members,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short_integer,
        )
    except RecursionError:
        value = None
        depth = DEEPEST + 1
    else:
        depth = _depth(value)
    if depth > DEEPEST:
        raise ValueError("the JSON is nested too deeply")
    _require_right(Node(value, ""))
    return value


def _require_right(node: Node) -> None:
    """Raise WrongValueError for the first wrong value."""
    if isinstance(node.value, _Wrong):
        raise WrongValueError(node.value.message, node.place)
    if isinstance(node.value, dict):
        inner = list(node.members().values())
    else:
        inner = node.items("") if isinstance(node.value, list) and node.value else []
    for each in inner:
        _require_right(each)


def _refuse_constant(name: str) -> Any:
    return _Wrong(f"{name} is no number of JSON")


def _finite(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else _Wrong(f"the number {text[:20]} is too large")


def _short_integer(text: str) -> Any:
    if len(text) > _LONGEST_INTEGER:
        return _Wrong(f"a number has {len(text)} digits")
    return int(text)


def _depth(value: Any) -> int:
    """Return how deeply a value is nested; 0 for a text or number."""
    depth = 0
    level = [value]
    while level := [
        item
        for outer in level
        if isinstance(outer, (dict, list))
        for item in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > DEEPEST:
            break
    return depth


def _unique_members(pairs: list[tuple[str, Any]]) -> Any:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            return _Wrong(f"an object has the key {key!r} twice")
        members[key] = value
    return members


def read_json_file(path: Path) -> Node:
    """Return the content of a JSON file; raises what `read_json` raises."""
    return read_json(read_regular(path, any_link=True), str(path))


def read_json(content: bytes, source: str) -> Node:
    """Return the content of a JSON file; `source` is its name.

    Raises InputError with line and column if it is not JSON, and with the place of the value if
    parse_json refuses one, such as an object that has a key twice.
    """
    try:
        # Some editors begin a file with a mark, as they do in CSV.
        value = parse_json(content.removeprefix(codecs.BOM_UTF8).decode())
        # An escaped surrogate such as `\ud800` is no character: it cannot be printed or written.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"{source}:{error.lineno}:{error.colno}"
        raise InputError(f"expected JSON: {error.msg}", place) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"expected UTF-8 text, got byte 0x{byte:02x}", source) from None
    except UnicodeEncodeError as error:
        shown = repr(error.object[error.start])
        raise InputError(f"expected UTF-8 text, got {shown}", source) from None
    except WrongValueError as error:
        raise InputError(str(error), source, column=error.place) from None
    except ValueError as error:
        raise InputError(str(error), source) from None
    return Node(value, source)
