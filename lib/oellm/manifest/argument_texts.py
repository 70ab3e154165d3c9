"""Texts of arguments, `key=value,key=value`: where they end, and the one text of each value."""

from __future__ import annotations

import json
from typing import Any

from oellm.core.json_config import parse_json

# Arguments that name a second model: a directory, or a repository of the hub.
COMPANIONS = ("tokenizer", "peft", "delta")
# Arguments of single backends that name an adapter, or the like, on this machine.
ADAPTERS = ("lora_local_path", "steer_path")
# Arguments that are names: a commit such as 5e12345 is no number.
NAMES = frozenset((*COMPANIONS, "revision", "subfolder", "variant", "gguf_file", "pretrained"))
# What lm-eval reads as a switch or as nothing, however it is spelled, and the one spelling.
_WORDS = {"true": "true", "false": "false", "none": "None"}


def split_pieces(text: str) -> list[str]:
    """Split at commas, except those inside a JSON value or a quoted text."""
    pieces = []
    start = 0
    while True:
        end = _piece_end(text, start)
        pieces.append(text[start:end])
        if end == len(text):
            return pieces
        start = end + 1


def _piece_end(text: str, start: int) -> int:
    comma = text.find(",", start)
    comma = len(text) if comma < 0 else comma
    begin = _skip_blanks(text, start)
    equals = text.find("=", start, comma)
    # Only after `key=` lists and objects are values; a directory may be called `[a`.
    if text.startswith('"', begin):
        value = begin
    elif equals >= 0 and text[_skip_blanks(text, equals + 1) :][:1] in ("{", "[", '"'):
        value = _skip_blanks(text, equals + 1)
    else:
        return comma
    end = _skip_blanks(text, value + _value_length(text[value:]))
    if end > comma and text[end : end + 1] in ("", ","):
        return end
    return comma


def _skip_blanks(text: str, start: int) -> int:
    return start + len(text[start:]) - len(text[start:].lstrip())


def _value_length(text: str) -> int:
    """Return how many letters at the beginning of a text are a JSON value, 0 if none is there."""
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return 0


def argument_text(name: str, text: str) -> str:
    """Return the one text of an argument's value, whatever its spelling.

    `True` is `true`, and JSON has its usual blanks and sorted keys. Raises ValueError for an object
    with a key twice, for NaN, and for what is nested too deeply.
    """
    if name in NAMES:
        return unquoted(text)
    if text[:1] in ("{", "[") and is_json(text):
        try:
            return json_text(parse_json(text))
        except ValueError as error:
            raise ValueError(f"expected JSON after {name}=: {error}") from None
    return _WORDS.get(text.lower(), text)


def is_json(text: str) -> bool:
    """Return whether a text is JSON, or would be without NaN, repeated keys and deep nesting."""
    try:
        json.loads(text)
    except ValueError:
        return False
    except RecursionError:
        return True
    return True


def json_text(value: Any) -> str:
    """Return a list or object as the one JSON text of its value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def argument_value(name: str, text: str) -> Any:
    """Return the value of an argument: a list or object if its text is one, else the text."""
    if name not in NAMES and text[:1] in ("{", "[") and is_json(text):
        return parse_json(text)
    return text


def scalar_text(name: str, value: Any) -> str:
    """Return the text of a text, number, switch or null of JSON."""
    if isinstance(value, str):
        return unquoted(value) if name in NAMES else _WORDS.get(value.lower(), value)
    return "None" if value is None and name not in NAMES else json.dumps(value)


def value_text(name: str, value: Any) -> str:
    """Return the text of an argument with a value of any JSON type, as argument_text returns it.

    A text that has a comma is quoted, so that it stays one.
    """
    if not isinstance(value, str):
        return json_text(value) if isinstance(value, (list, dict)) else scalar_text(name, value)
    if name not in NAMES and ("," in value or value != value.strip()):
        return json.dumps(value, ensure_ascii=False)
    return argument_text(name, value)


def shown_text(name: str, text: str) -> str:
    """Return an argument's text as a cell shows it after `key=`."""
    is_plain = "," not in text and text[:1] not in ('"', "'") and text == text.strip()
    needs_quotes = name in NAMES and not is_plain
    return json.dumps(text, ensure_ascii=False) if needs_quotes else text


def unquoted(text: str) -> str:
    """Return a text without the quotes that, for lm-eval, keep it a text."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]
