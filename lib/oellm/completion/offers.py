"""What may stand at the place of the cursor, and how a manual tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from oellm.errors import OellmError

# A list of words in the description of an option: `csv, jsonl or table`.
_BETWEEN = re.compile(r", or |, | or ")
_ONE_WORD = re.compile(r"[a-z][a-z0-9_]*")
_REMARK = re.compile(r" \([^)]*\)")
# Commas in brackets belong to the member: SUITE[deu_Latn,fra_Latn].
_COMMA = re.compile(r",(?![^\[\]]*\])")


class Files(Enum):
    """Which files a shell offers beside the words."""

    NONE = "none"
    ANY = "files"
    DIRECTORIES = "directories"


class OfferedWord(NamedTuple):
    """A word, and what it means for people; empty if that is not known."""

    text: str
    about: str = ""


class Value(NamedTuple):
    """What a value may be.

    Attributes:
        find: Returns the words.
        files: The files that it may be.
        is_mixed: Whether files are offered beside words; else only if no word fits.
    """

    find: Callable[[], Iterable[OfferedWord]] = tuple
    files: Files = Files.NONE
    is_mixed: bool = False


class Offer(NamedTuple):
    """What a shell may offer.

    Attributes:
        prefix: The part of the word before the cursor that stays.
        begun: The rest of it, with which words and files begin.
        words: Words that replace the rest.
        files: Files that may replace it.
        goes_on: Whether more may follow a word without a blank.
    """

    prefix: str = ""
    begun: str = ""
    words: Sequence[OfferedWord] = ()
    files: Files = Files.NONE
    goes_on: bool = False


def offer_value(value: Value, *, prefix: str, text: str, is_list: bool) -> Offer:
    """Return what completes a value, or the last one of a list, after a prefix."""
    if is_list:
        *others, last = _COMMA.split(text)
        prefix, text = prefix + "".join(f"{other}," for other in others), last
    is_path = value.files is not Files.NONE and text.startswith(("/", "./", "../", "~"))
    words = [] if is_path else _find_words(value, text)
    with_files = is_path or value.is_mixed or not words
    return Offer(
        prefix=prefix,
        begun=text,
        words=words,
        files=value.files if with_files else Files.NONE,
        goes_on=is_list,
    )


def _find_words(value: Value, begun: str) -> list[OfferedWord]:
    try:
        return [word for word in value.find() if _fits(word.text, begun)]
    except (OellmError, OSError):
        # A damaged file takes away only its own words.
        return []


def _fits(word: str, begun: str) -> bool:
    """Say whether a word continues what is typed: first to KEY=, then to KEY=VALUE."""
    _, equals, value = word.partition("=")
    return word.startswith(begun) and (not equals or bool(value) == ("=" in begun))


def enumerated(text: str, option: str) -> list[str]:
    """Return the values that the description of an option lists.

    They are at its beginning, after `for example`, or in an example of the option itself.
    """
    examples: list[str] = re.findall(rf"{option}=([a-z]+)", text)
    for start in (text, text.partition("for example ")[2]):
        pieces = _BETWEEN.split(re.split(r"[.;:]", _REMARK.sub("", start))[0])
        words = [piece for piece in pieces if _ONE_WORD.fullmatch(piece)]
        if len(words) > 1:
            return words
    return examples


def is_list(text: str) -> bool:
    """Say whether the value with this description is a list."""
    return "separated by commas" in text


def first_sentence(text: str) -> str:
    """Return the first sentence of a description, or its part before a semicolon."""
    return re.split(r"(?<=[^. ])\. |; ", text, maxsplit=1)[0].rstrip(".")
