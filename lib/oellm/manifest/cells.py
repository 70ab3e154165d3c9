"""The columns of manifests: what the text of a cell means, worked out once for each text.

A manifest of a million rows has few texts in most of its columns, each of them many times.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.core.schema import table

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
        value = parse(self._name, text)
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


def parse(column: str, text: str) -> Any:
    """Return the value of a non-empty manifest cell; JSON types only.

    Raises ValueError with `expected …, got …` where the text is no value of the column's type.
    Columns that the schema does not know keep their text.
    """
    kind = table("manifest").get(column, {}).get("type", "text")
    return _PARSERS[kind](text)


def _expected(what: str, text: str) -> ValueError:
    return ValueError(f"expected {what}, got {text!r}")


def _text(text: str) -> str:
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[\w.+-]+", text):
        raise _expected("one word", text)
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()):
        raise _expected("a non-negative integer", text)
    return int(text)


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]*", text.strip()):
        raise _expected("a positive integer", text)
    return int(text)


def _limit(text: str) -> int | float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number <= 0 or (number >= 1 and number != int(number)):
        raise _expected("a number of documents, or a fraction below 1", text)
    return int(number) if number >= 1 else number


def _batch_size(text: str) -> int | str:
    if re.fullmatch(r"0*[1-9][0-9]*", text):
        return int(text)
    if re.fullmatch(r"auto(:[1-9][0-9]*)?", text):
        return text
    raise _expected("a positive integer, auto or auto:N", text)


_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.strip().lower()]
    except KeyError:
        raise _expected("true or false", text) from None


def _switch_or_name(text: str) -> bool | str:
    return _SWITCH.get(text.strip().lower(), text)


def _seed(text: str) -> list[int | None]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1:
        parts *= 4
    if len(parts) != 4 or not all(re.fullmatch(r"[0-9]+|None", part) for part in parts):
        raise _expected("one seed, or four separated by commas", text)
    return [None if part == "None" else int(part) for part in parts]


def _arguments(text: str) -> dict[str, Any]:
    """Return arguments by name; a scalar in JSON is the same as its text after `key=`."""
    from oellm.manifest.model_spec import require_no_secret

    if text.lstrip().startswith("{"):
        try:
            loaded = json.loads(text)
        except ValueError as error:
            raise ValueError(f"expected key=value,key=value or JSON: {error}") from None
        require_no_secret(loaded)
        return {
            name: value if isinstance(value, (str, list, dict)) else json.dumps(value)
            for name, value in loaded.items()
        }
    pairs = [part.partition("=") for part in text.split(",")]
    require_no_secret(key.strip() for key, equals, _ in pairs if equals)
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise _expected("key=value,key=value", text)
    if len({key.strip() for key, _, _ in pairs}) < len(pairs):
        raise _expected("each key once", text)
    return {key.strip(): value.strip() for key, _, value in pairs}


_FRAMEWORKS = {
    "lm_eval": "lm_eval",
    "lm-eval": "lm_eval",
    "lm-eval-harness": "lm_eval",
    "lm-evaluation-harness": "lm_eval",
}


def _framework(text: str) -> str:
    """Return the framework's one name; frameworks that are not built in keep theirs."""
    return _FRAMEWORKS.get(_word(text.strip()), text.strip())


def _model(text: str) -> list[Any]:
    from oellm.manifest.model_spec import ModelSpec

    spec = ModelSpec.parse(text)
    return [spec.path, dict(sorted(spec.arguments))]


def _eval_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise _expected("16 hexadecimal digits", text)
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "text": _text,
    "path": _text,
    "word": _word,
    "count": _count,
    "positive": _positive,
    "limit": _limit,
    "batch_size": _batch_size,
    "switch": _switch,
    "switch_or_name": _switch_or_name,
    "seed": _seed,
    "arguments": _arguments,
    "framework": _framework,
    "model": _model,
    "eval_id": _eval_id,
}
