"""A command line that is still being typed, split into words as a shell does."""

from __future__ import annotations

import re
from typing import NamedTuple

# What begins another command, and what is followed by a file.
_SEPARATORS = "|;&(`\n"
_REDIRECTIONS = "<>"
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class LastWord(NamedTuple):
    """The word before the cursor; empty after a blank.

    Attributes:
        text: What the shell makes of it, without quotes.
        quote: The quotation mark that is still open, or empty.
        kept: How many characters of `text` the shell leaves alone: it replaces only what follows
            the last of its word breaks.
    """

    text: str
    quote: str = ""
    kept: int = 0


class CommandLine(NamedTuple):
    """The last command on a line, up to the cursor.

    Attributes:
        words: Its words but the last, without quotes, assignments before it, and redirections.
        last: The last word.
        is_file: Whether the last word is the file of a redirection.
    """

    words: list[str]
    last: LastWord
    is_file: bool = False


def split_line(line: str, word_breaks: str = "") -> CommandLine:
    """Split what stands before the cursor."""
    splitter = _Splitter(word_breaks)
    characters = iter(line)
    for character in characters:
        if character == "\\" and splitter.quote != "'":
            splitter.add_escaped(next(characters, ""))
        elif splitter.quote:
            splitter.add_quoted(character)
        else:
            splitter.add(character)
    return splitter.finish()


def unquote(word: str) -> str:
    """Return what a shell makes of a word that may have an open quotation mark."""
    return split_line(word).last.text


class _Splitter:
    def __init__(self, word_breaks: str) -> None:
        self.quote = ""
        self._breaks = set(word_breaks) - set("'\"")
        self._words: list[str] = []
        self._text, self._kept = "", 0
        # An empty word in quotes is a word, too.
        self._is_begun = self._is_file = False

    def add(self, character: str) -> None:
        if character in _REDIRECTIONS:
            # The number of a stream belongs to the redirection.
            if self._text.isdecimal():
                self._begin()
            self._end()
            self._is_file = True
        elif character in _SEPARATORS and not (character == "&" and self._is_file):
            self._begin()
            self._words, self._is_file = [], False
        elif character.isspace():
            self._end()
        elif character in "'\"":
            self.quote, self._is_begun = character, True
            self._kept = len(self._text)
        else:
            self._add(character)
            if character in self._breaks:
                self._kept = len(self._text)

    def add_quoted(self, character: str) -> None:
        if character == self.quote:
            self.quote = ""
        else:
            self._add(character)

    def add_escaped(self, character: str) -> None:
        is_kept = self.quote == '"' and character not in '"\\$`\n'
        if is_kept:
            self._add("\\")
        if character != "\n":
            self._add(character)

    def finish(self) -> CommandLine:
        return CommandLine(self._words, LastWord(self._text, self.quote, self._kept), self._is_file)

    def _add(self, character: str) -> None:
        self._text += character
        self._is_begun = True

    def _begin(self) -> None:
        self._text, self._kept, self._is_begun = "", 0, False

    def _end(self) -> None:
        """End the word, if there is one; the file of a redirection is none of the command's."""
        if not (self._text or self._is_begun):
            return
        is_assignment = not self._words and _ASSIGNMENT.match(self._text)
        if not (self._is_file or is_assignment):
            self._words.append(self._text)
        self._is_file = False
        self._begin()
