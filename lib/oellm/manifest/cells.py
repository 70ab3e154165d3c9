"""Cells of manifests: what their text means in its column.

Most columns of a large manifest hold few different texts, so cells are cached by column and text.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from oellm.core import schema
from oellm.core.json_config import parse_json
from oellm.core.schema import KINDS, unexpected
from oellm.manifest.argument_texts import (
    argument_text,
    argument_value,
    scalar_text,
    split_pieces,
)
from oellm.manifest.task_source import check_sources

# Bounds of the cache of cells: how many it keeps, and the longest text (in characters) of one.
_CACHED_CELLS = 32_768
_LONGEST_CACHED = 256

# Above these, a number is a mistake; a context holds hundreds of examples.
_MOST_SHOTS = 10_000
_MOST_DOCUMENTS = 10**12
# What is meant as a switch, and is no name of a chat template. (`default` is one.)
_NO_TEMPLATES = frozenset(
    ("none", "null", "nil", "nan", "off", "on", "n", "y", "t", "f", "tru", "ture", "fals", "flase")
)
# The place of NumPy's seed among the four.
_NUMPY = 1

# Neither file names nor results can hold NUL, or surrogates (which stand for undecodable bytes).
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


class Cell(NamedTuple):
    """What the text of a cell means in its column.

    Attributes:
        value: As `parse_cell` returns it; the column's default if the text is empty.
        member: What the cell adds to the identity's JSON object, `"limit":5`; empty if nothing.
        objection: Why a new row may not have this text, although old ones keep it; often empty.
    """

    value: Any
    member: str
    objection: str = ""


def read_cell(column: str, text: str) -> Cell:
    """Return what a text means in a column; an unknown column takes any text.

    Raises ValueError with `expected …, got …` if the text is no value of the column.
    """
    if len(text) > _LONGEST_CACHED:
        return _read_cell(column, text)
    return _cached_cell(column, text)


def _read_cell(column: str, text: str) -> Cell:
    default = schema.table("manifest").get(column, {}).get("default")
    if not text:
        return Cell(default, "")
    value = parse_cell(column, text)
    member = ""
    if column in identity_columns() and value != default:
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        member = f'"{column}":{canonical}'
    # JSON in a cell can escape characters that the text itself does not have.
    if _NO_TEXT.search(text) or _NO_TEXT.search(member):
        raise ValueError(f"expected UTF-8 text without NUL, got {text!r}")
    find_objection = _OBJECTIONS.get(column)
    return Cell(value, member, find_objection(text, value) if find_objection else "")


_cached_cell = functools.lru_cache(_CACHED_CELLS)(_read_cell)


def find_fault(column: str, text: str) -> str:
    """Return why a text is no cell of a new row in this column; empty if it is one."""
    try:
        return read_cell(column, text).objection
    except ValueError as error:
        return str(error)


@functools.cache
def identity_columns() -> frozenset[str]:
    """Return the names of the columns that change a score."""
    table = schema.table("manifest")
    return frozenset(name for name, spec in table.items() if spec.get("identity"))


def parse_cell(column: str, text: str) -> Any:
    """Return the value of a non-empty cell, made of JSON types only.

    Columns that the schema does not know keep their text. Raises ValueError with
    `expected …, got …` if the text is no value of the column.
    """
    name = schema.table("manifest").get(column, {}).get("type", "text")
    parser = _PARSERS.get(name) or KINDS[name].parse
    return parser(text)


def _parse_limit(text: str) -> int | float:
    try:
        # Python's spellings, 1_000 among them, which have been valid from the first version on.
        number = float(text) if text.isascii() else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number <= 0 or (number >= 1 and number != int(number)):
        raise unexpected("a number of documents, or a fraction below 1", text)
    return int(number) if number >= 1 else number


def _limit_objection(text: str, value: Any) -> str:
    """Return why a limit may not mean what it says."""
    if "_" in text:
        return f"expected a number of documents in plain digits, got {text!r}"
    if value == 1 and text.strip().lstrip("0") != "1":
        return (
            f"expected a number of documents, or a fraction below 1, got {text!r}, which would be "
            "one document: write 1, or leave it empty for all documents"
        )
    if value > _MOST_DOCUMENTS:
        return f"expected at most {_MOST_DOCUMENTS} documents, got {text!r}"
    return ""


def _shots_objection(text: str, value: Any) -> str:
    if value > _MOST_SHOTS:
        return f"expected at most {_MOST_SHOTS} examples, got {text!r}"
    return ""


def _template_objection(text: str, value: Any) -> str:
    """Return why the name of a chat template is none: it would be applied all the same."""
    if isinstance(value, str) and value.strip().lower() in _NO_TEMPLATES:
        return f"expected true, false or the name of a chat template, got {text!r}"
    return ""


def _seed_objection(text: str, value: Any) -> str:
    """Return why a seed cannot be used: NumPy's have 32 bits, those of torch 64."""
    for seed, bits in ((value[_NUMPY], 32), *((seed, 64) for seed in value)):
        if seed is not None and seed >= 2**bits:
            return f"expected a seed below 2**{bits}, got {text[:40]!r}"
    return ""


def _parse_batch_size(text: str) -> int | str:
    # Tools that know floating-point numbers only write 8.0.
    if match := re.fullmatch(r"0*([1-9][0-9]{0,99})(\.0*)?", text.strip()):
        return int(match[1])
    if re.fullmatch(r"auto(:[1-9][0-9]{0,8})?", text):
        return text
    raise unexpected("a positive integer, auto or auto:N", text)


_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _parse_switch(text: str) -> bool:
    try:
        return _SWITCH[text.strip().lower()]
    except KeyError:
        raise unexpected("true or false", text) from None


def _parse_switch_or_name(text: str) -> bool | str:
    return _SWITCH.get(text.strip().lower(), text)


def _parse_seed(text: str) -> list[int | None]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1:
        parts *= 4
    if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,100}|None", part) for part in parts):
        raise unexpected("one seed, or four separated by commas", text)
    return [None if part == "None" else int(part) for part in parts]


def _parse_arguments(text: str) -> dict[str, Any]:
    """Return arguments by name: lists and objects as they are, all else as the one text of it."""
    from oellm.manifest.model_spec import require_no_secret

    if text.lstrip().startswith("{"):
        try:
            loaded = parse_json(text)
        except ValueError as error:
            raise ValueError(f"expected key=value,key=value or JSON: {error}") from None
        require_no_secret(loaded)
        return {
            name: value if isinstance(value, (list, dict)) else scalar_text(name, value)
            for name, value in loaded.items()
        }
    pairs = [part.partition("=") for part in split_pieces(text)]
    require_no_secret(key.strip() for key, equals, _ in pairs if equals)
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise unexpected("key=value,key=value", text)
    if len({key.strip() for key, _, _ in pairs}) < len(pairs):
        raise unexpected("each key once", text)
    texts = ((key.strip(), value.strip()) for key, _, value in pairs)
    return {key: argument_value(key, argument_text(key, value)) for key, value in texts}


def _parse_framework(text: str) -> str:
    """Return the framework's one name; a framework that is not built in keeps its own."""
    name: str = KINDS["word"].parse(text.strip())
    spellings: dict[str, str] = schema.table("manifest")["eval_suite"]["spellings"]
    return spellings.get(name, name)


def _parse_model(text: str) -> list[Any]:
    from oellm.manifest.model_spec import ModelSpec

    spec = ModelSpec.parse(text)
    return [spec.path, dict(sorted(spec.arguments))]


def _parse_eval_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise unexpected("16 hexadecimal digits", text)
    return text


# The kinds that only manifests have, beside those of core/schema.py.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "limit": _parse_limit,
    "batch_size": _parse_batch_size,
    "switch": _parse_switch,
    "switch_or_name": _parse_switch_or_name,
    "seed": _parse_seed,
    "arguments": _parse_arguments,
    "framework": _parse_framework,
    "sources": check_sources,
    "model": _parse_model,
    "eval_id": _parse_eval_id,
}

# What is wrong with the texts of new rows; rows that carry their eval_id keep them.
_OBJECTIONS: dict[str, Callable[[str, Any], str]] = {
    "n_shot": _shots_objection,
    "limit": _limit_objection,
    "seed": _seed_objection,
    "apply_chat_template": _template_objection,
}
