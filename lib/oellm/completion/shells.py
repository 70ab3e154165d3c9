"""The scripts for shells, and what their functions understand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from oellm.completion.command_line import CommandLine, LastWord, split_line, unquote
from oellm.completion.grammar import SHELLS, Subcommands, find_offer
from oellm.completion.offers import Files, Offer, OfferedWord
from oellm.core.display import shorten_end

# Where the scripts are, below the project's data.
_SCRIPTS = {"bash": "bash/oellm", "zsh": "zsh/_oellm", "fish": "fish/oellm.fish"}
# What a word may have in bash without being quoted.
_PLAIN = re.compile(r"[\w.,:=@%/+-]*")
_ABOUT_LENGTH = 60
assert tuple(_SCRIPTS) == SHELLS


class Answer(NamedTuple):
    """What a script gets.

    Attributes:
        stays: What the shell puts before each file.
        offer: The words and files.
    """

    stays: str
    offer: Offer

    def encode(self) -> bytes:
        """Return the answer: a line on files, then a line for each word.

        The first line has what files there are, whether a word goes on, what stays before them, and
        how they begin. Names with control characters are left out.
        """
        offer = self.offer
        lines = [
            (offer.files.value, "on" if offer.goes_on else "", self.stays, offer.begun),
            *((word.text, shorten_end(word.about, _ABOUT_LENGTH)) for word in offer.words),
        ]
        shown = ["\t".join(parts) for parts in lines if all(map(str.isprintable, parts))]
        return "".join(f"{line}\n" for line in shown).encode()


def read_script(shell: str) -> str:
    """Return the script of a shell."""
    from oellm.core.paths import data_file

    return data_file("completions", _SCRIPTS[shell]).read_text(encoding="utf-8")


def answer(shell: str, words: Sequence[str], subcommands: Subcommands) -> bytes:
    """Return what the function of a shell's script prints or sets.

    `words` are bash's word breaks and its line up to the cursor; of the others, the words before
    that, the last of which zsh has and fish has not freed of quotation marks.
    """
    if not all(map(str.isprintable, words[1:])):
        return b""
    if shell == "bash":
        line = split_line(words[1], words[0])
    else:
        *others, last = words
        last = unquote(last) if shell == "fish" else last
        # As if a blank had ended each word: without assignments before the command.
        line = CommandLine([word for word in others if word], LastWord(last))
    offer = _find(line, subcommands)
    if shell == "bash":
        return _for_bash(offer, line.last).encode()
    if shell == "fish":
        return _for_fish(offer).encode()
    return Answer(offer.prefix, offer).encode()


def _find(line: CommandLine, subcommands: Subcommands) -> Offer:
    if line.is_file:
        return Offer(begun=line.last.text, files=Files.ANY)
    return find_offer(line.words, line.last.text, subcommands)


def _for_bash(offer: Offer, last: LastWord) -> Answer:
    """Return the words as bash puts them in the place of what follows the last word break."""
    stays = offer.prefix[last.kept :]
    whole = [f"{offer.prefix}{word.text}"[last.kept :] for word in offer.words]
    if last.quote:
        # Only bash itself puts odd names into quotation marks that are open.
        whole = [text for text in whole if _PLAIN.fullmatch(text)]
        offer = offer._replace(files=Files.NONE if whole or stays else offer.files)
    words = [OfferedWord(_quote(text)) for text in whole]
    return Answer(_quote(stays), offer._replace(words=words))


def _quote(text: str) -> str:
    return re.sub(r"([^\w.,:=@%/+-])", r"\\\1", text)


def _for_fish(offer: Offer) -> Answer:
    """Return whole words; fish passes over those that do not begin as the one that is typed."""
    begun = offer.begun
    words = [
        word._replace(text=f"{offer.prefix}{begun}{word.text[len(begun) :]}")
        for word in offer.words
    ]
    return Answer(offer.prefix, offer._replace(words=words))
