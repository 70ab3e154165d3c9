"""Languages: one identity each, in the spellings that task names and people use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# What may stand in braces in a template, as in `belebele_{language}`.
PLACEHOLDERS = ("language", "language_lower", "alpha2", "name")


class Language(NamedTuple):
    """A language in one script."""

    # As FLORES-200 writes it, `deu_Latn`: the identity, and what the manifest's column holds.
    code: str
    # Two letters, or three where there is no code of two.
    alpha2: str
    # English, in lower case, words joined by underscores.
    name: str

    def fill(self, template: str) -> str:
        """Return a template with its placeholders replaced."""
        values = (self.code, self.code.lower(), self.alpha2, self.name)
        words = dict(zip(PLACEHOLDERS, values, strict=True))
        return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], template)


def placeholders(text: str) -> list[str]:
    """Return what stands in braces in a text."""
    return re.findall(r"\{([^{}]*)\}", text)


def find(text: str, languages: Iterable[Language]) -> Language | None:
    """Return the language that a text spells, in capitals or not, or None."""
    return next((each for each in languages if text.lower() in spellings(each)), None)


def spellings(language: Language) -> list[str]:
    """Return the spellings of a language in lower case."""
    return [word.lower() for word in language]


def mark_language(task: str, code: str, languages: Mapping[str, Language]) -> str:
    """Return a task's name with `*` in place of its language.

    Tasks of one suite that differ in their language alone become equal: `belebele_deu_Latn` and
    `belebele_fra_Latn` become `belebele_*`. The language may have any spelling that `languages` (by
    code) knows, or that of its code with or without the script. If the name spells it several
    times, the last one counts, because most names end with the language. A name that does not
    spell it stays as it is.
    """
    words = [code.lower(), code.lower().partition("_")[0]]
    if code in languages:
        words += spellings(languages[code])
    either = "|".join(map(re.escape, sorted(filter(None, words), key=len, reverse=True)))
    # A word ends at anything but a letter or a digit, so also at an underscore.
    spelled = list(re.finditer(rf"(?<![^\W_])(?:{either})(?![^\W_])", task, re.IGNORECASE))
    return f"{task[: spelled[-1].start()]}*{task[spelled[-1].end() :]}" if spelled else task
