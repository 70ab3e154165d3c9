"""Languages: one identity each, in the spellings that task names and people use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# What may stand in braces in a template, as in `belebele_{language}`.
PLACEHOLDERS = ("language", "language_lower", "alpha2", "name")


class Language(NamedTuple):
    """A language in one script.

    Attributes:
        code: As FLORES-200 writes it, `deu_Latn`: its identity, which the manifest's column holds.
        alpha2: Its code of two letters, or of three if it has none of two.
        name: Its English name in lower case; underscores join words.
    """

    code: str
    alpha2: str
    name: str

    def words(self) -> tuple[str, str, str]:
        """Return the spellings of the language."""
        return (self.code, self.alpha2, self.name)

    def is_spelled(self, text: str) -> bool:
        """Return whether a text spells the language, in upper or lower case."""
        return text.lower() in (word.lower() for word in self.words())

    def fill(self, template: str) -> str:
        """Return a template with its placeholders replaced."""
        values = (self.code, self.code.lower(), self.alpha2, self.name)
        words = dict(zip(PLACEHOLDERS, values, strict=True))
        return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], template)


def find_placeholders(text: str) -> list[str]:
    """Return what stands in braces in a text."""
    return re.findall(r"\{([^{}]*)\}", text)


def find_language(text: str, languages: Iterable[Language]) -> Language | None:
    """Return the language that a text spells, in upper or lower case, or None."""
    return next((language for language in languages if language.is_spelled(text)), None)


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
        words += (word.lower() for word in languages[code].words())
    either = "|".join(map(re.escape, sorted(filter(None, words), key=len, reverse=True)))
    # A word ends at anything but a letter or a digit, so also at an underscore.
    spelled = list(re.finditer(rf"(?<![^\W_])(?:{either})(?![^\W_])", task, re.IGNORECASE))
    return f"{task[: spelled[-1].start()]}*{task[spelled[-1].end() :]}" if spelled else task
