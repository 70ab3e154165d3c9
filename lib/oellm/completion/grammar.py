"""Which option, value or argument of which command is being typed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from oellm.completion import values
from oellm.completion.offers import (
    Files,
    Offer,
    OfferedWord,
    Value,
    first_sentence,
    is_list,
    offer_value,
)
from oellm.manuals.loading import load_manual
from oellm.manuals.usage import ARGUMENT, Manual, OptionText, spelling

SHELLS = ("bash", "zsh", "fish")
_WRAPPER = "oellm"
_OURS = re.compile(r"oe-[a-z][a-z-]*|oellm|global-benchmark")


class Subcommands(NamedTuple):
    """The words that oellm takes for commands.

    Attributes:
        own: Those that it runs itself.
        shortcuts: The words that others stand for.
        list_others: Returns NAME for each oe-NAME that is installed.
    """

    own: Sequence[str]
    shortcuts: Mapping[str, Sequence[str]]
    list_others: Callable[[], Sequence[str]]

    def words(self, *further: str) -> list[OfferedWord]:
        """Return all of them."""
        names = {*self.own, *self.shortcuts, *further, *self.list_others()}
        return list(map(OfferedWord, sorted(names)))


def find_offer(words: Sequence[str], last: str, subcommands: Subcommands) -> Offer:
    """Return what completes the word `last` after the other words of a command line."""
    name, *others = [os.path.basename(words[0]), *words[1:]] if words else [""]
    if name == _WRAPPER and others:
        first, *rest = others
        if first in ("help", "completion"):
            found = list(map(OfferedWord, SHELLS))
            if first == "help":
                found = subcommands.words()
            return _offer_words(found if not rest else (), last)
        if first not in subcommands.own:
            name, *others = [*subcommands.shortcuts.get(first, [f"oe-{first}"]), *rest]
    elif name == _WRAPPER and not last.startswith("-"):
        return _offer_words(subcommands.words("help", "completion"), last)
    if not _OURS.fullmatch(name):
        return Offer(begun=last, files=Files.ANY)
    try:
        manual = load_manual(name)
    except ModuleNotFoundError:
        return Offer(begun=last, files=Files.ANY)
    return _Typed.read(name, manual, others).offer(last)


def _offer_words(words: Sequence[OfferedWord], last: str) -> Offer:
    return offer_value(Value(lambda: words), prefix="", text=last, is_list=False)


class _Typed(NamedTuple):
    """What stands before the word that is being typed.

    Attributes:
        command: The command.
        manuals: Its manual; that of oellm is followed by those of the commands that it runs.
        usages: The usages that are still possible.
        options: The options of these, and what their manuals say of them.
        given: The options that are there, with their values.
        waiting: An option whose value comes next; empty if there is none.
        arguments: The number of arguments, without a subcommand.
        is_over: Whether `--` has ended the options.
    """

    command: str
    manuals: Sequence[Manual]
    usages: Sequence[str]
    options: Mapping[str, OptionText]
    given: Mapping[str, str]
    waiting: str = ""
    arguments: int = 0
    is_over: bool = False

    @classmethod
    def read(cls, command: str, manual: Manual, words: Sequence[str]) -> _Typed:
        manuals, options = [manual], manual.describe_options()
        usages = manual.usages
        if commands := manual.subcommands():
            chosen = next((word for word in words if word in commands), "")
            usages = [line for line in usages if line.split()[0] == chosen]
            words = list(words)
            if chosen:
                words.remove(chosen)
        if not any("[options]" in line for line in usages):
            own = {"--help", "--version", *re.findall(r"--[\w-]+", " ".join(usages))}
            options = {name: text for name, text in options.items() if name in own}
        elif command == _WRAPPER:
            from oellm.wrappers.schedule import passed_options

            passed = passed_options()
            manuals += [one for one, _ in passed]
            options = {name: text for _, found in passed for name, text in found.items()} | options
        typed = cls(command, manuals, usages=usages, options=options, given={})
        for word in words:
            typed = typed._add(word)
        return typed

    def _add(self, word: str) -> _Typed:
        if self.waiting:
            return self._replace(given={**self.given, self.waiting: word}, waiting="")
        if self.is_over or not word.startswith("-") or word == "-":
            return self._replace(arguments=self.arguments + 1)
        if word == "--":
            return self._replace(is_over=True)
        name, equals, value = word.partition("=")
        name = self._documented(name)
        needs_value = not equals and any(one.forms.get(name) == "=" for one in self.manuals)
        return self._replace(given={**self.given, name: value}, waiting=name if needs_value else "")

    def offer(self, last: str) -> Offer:
        """Return what completes the next word."""
        if self.waiting:
            return self._offer_option_value(self.waiting, prefix="", text=last)
        if last.startswith("-") and not self.is_over:
            given, equals, text = last.partition("=")
            if equals:
                name = self._documented(given)
                return self._offer_option_value(name, prefix=f"{given}=", text=text)
            return self._offer_options(last)
        if not self.usages:
            found = list(map(OfferedWord, self.manuals[0].subcommands()))
            return _offer_words(found, last)
        names = re.findall(ARGUMENT, self.usages[0])
        if not names:
            return self._offer_options(last)
        repeats = bool(re.search(rf"{names[-1]}\]?\.\.\.", self.usages[0]))
        if self.arguments >= len(names) and not repeats:
            return self._offer_options(last) if not last else Offer()
        value = values.of_argument(names[min(self.arguments, len(names) - 1)], self._place(""))
        return offer_value(value, prefix="", text=last, is_list=False)

    def _documented(self, given: str) -> str:
        known = {spelling(name): name for name in self.options}
        short = (f"{given} means the same" in one.text for one in self.options.values())
        by_short = dict(zip(short, self.options, strict=True))
        return known.get(spelling(given)) or by_short.get(True, given)

    def _place(self, option: str) -> values.TypedPlace:
        return values.TypedPlace(self.command, option, self.given)

    def _offer_option_value(self, name: str, *, prefix: str, text: str) -> Offer:
        if name not in self.options:
            return Offer()
        value = values.of_option(self.options[name], self._place(name))
        listed = is_list(self.options[name].text)
        return offer_value(value, prefix=prefix, text=text, is_list=listed)

    def _offer_options(self, last: str) -> Offer:
        """Return the options that may still come, under their documented names."""
        if last not in ("", "-") and not last.startswith("--"):
            return Offer()
        found = [
            OfferedWord(f"{name}=" if self._form(name) == "=" else name, first_sentence(said.text))
            for name, said in self.options.items()
            if name not in self.given or any(one.repeats(name) for one in self.manuals)
        ]
        begun = spelling(last)
        fitting = [word for word in found if spelling(word.text).startswith(begun)]
        return Offer(begun=last, words=fitting)

    def _form(self, name: str) -> str:
        return next(one.forms[name] for one in self.manuals if name in one.forms)
