"""Manuals in the docopt language: their options, and command lines that are to fit them.

docopt on its own accepts abbreviations, and does not say what is wrong with a command line. Nothing
is imported before it is needed, because --help must be fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from oellm.errors import UsageError, nearest

_OPTIONS = "Options:\n"
# An argument such as RUN_DIR, but not the value of an option.
ARGUMENT = "(?<![=A-Z_-])[A-Z][A-Z_]*"


class CommandLineError(UsageError):
    """A command line that does not fit the manual; `manual` is the command that prints that."""

    def __init__(self, message: str, manual: str) -> None:
        super().__init__(message)
        self.manual = manual


class OptionText(NamedTuple):
    """What a manual says of an option.

    Attributes:
        value: The name of its value, such as FILE; empty if it takes none.
        text: The description, on one line.
    """

    value: str
    text: str


class Manual:
    """The manual of a command: what its command line may have.

    Attributes:
        forms: By option: `=` if it takes a value, `[=` if the value may be left out, else empty.
    """

    def __init__(self, text: str) -> None:
        import re

        # docopt would take each line of the manual that begins with a hyphen for an option.
        self._head, _, rest = text.partition(_OPTIONS)
        self._options = rest.partition("\n\n")[0]
        self._usage = self._head.partition("Usage:\n")[2]
        found = re.findall(r"^  (--[\w-]+)(\[?=)?", self._options, re.MULTILINE)
        self.forms: dict[str, str] = dict(found)
        self.program = self._usage.split(maxsplit=1)[0]
        self._lines = [
            " ".join(line.split()) for line in f" {self._usage}".split(f" {self.program} ")[1:]
        ]

    @property
    def usages(self) -> Sequence[str]:
        """The usages, each on one line and without the name of the program."""
        return self._lines

    def repeats(self, option: str) -> bool:
        """Say whether an option may be given more than once."""
        return any(_repeats(line, option) for line in self._lines)

    def describe_options(self) -> dict[str, OptionText]:
        """Return what the manual says of each option."""
        import re

        found: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in self._options.splitlines():
            if start := re.match(r"  (--[\w-]+)(\S*)\s*(.*)", line):
                lines = found[start[1]] = [start[2].strip("[=]"), start[3]]
            else:
                lines.append(line.strip())
        return {
            name: OptionText(value, " ".join(filter(None, texts)))
            for name, (value, *texts) in found.items()
        }

    def subcommands(self) -> list[str]:
        """Return the words with which the usages begin, if they are no options or arguments."""
        firsts = [line.split(maxsplit=1)[0] for line in self._lines]
        return list(dict.fromkeys(filter(_is_command, firsts)))

    def parse(
        self, argv: Sequence[str], further: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, Any]:
        """Return what docopt makes of a command line.

        Options of `further`, which has their forms, are in the value of `further`, as words.
        Raises CommandLineError if it does not fit.
        """
        import re

        import docopt

        try:
            words = _spell_out(argv, {**further, **self.forms})
            own = [word for word in words if self._is_own(word)] if further else words
            # docopt knows no value that may be left out.
            options = re.sub(r"^(  --[\w-]+)\[=(\w+)\]", r"\1=\2", self._options, flags=re.M)
            # It would take a line of a description for another option.
            options = re.sub(r"^   +-", "   .-", options, flags=re.M)
            text = f"{self._head}{_OPTIONS}{options}\n"
            parsed = dict(docopt.docopt(text, own, default_help=False))
        except docopt.DocoptExit:
            raise CommandLineError(self._mismatch(own), self._shown_by(own)) from None
        except UsageError as error:
            raise CommandLineError(str(error), self._shown_by(argv)) from None
        if further:
            parsed["further"] = [word for word in words if not self._is_own(word)]
        return parsed

    def _is_own(self, word: str) -> bool:
        return not word.startswith("--") or word == "--" or word.partition("=")[0] in self.forms

    def _shown_by(self, words: Sequence[str]) -> str:
        """Return the command that prints the manual: with the subcommand if all usages have it."""
        firsts = {line.split()[0] for line in self._lines}
        subcommand = firsts.pop()
        is_command = not firsts and _is_command(subcommand) and subcommand in words
        return " ".join([self.program, *([subcommand] if is_command else []), "--help"])

    def _mismatch(self, words: Sequence[str]) -> str:
        """Return what is wrong with arguments that match none of the usages."""
        end = words.index("--") if "--" in words else len(words)
        options = [word.partition("=")[0] for word in words[:end] if word.startswith("--")]
        values = [word for word in words[:end] if not word.startswith("--")]
        values += words[end + 1 :]
        commands = self.subcommands()
        if commands and not values:
            return f"expected a command: {', '.join(commands)}"
        if commands and values[0] not in commands:
            return f"unknown command {values[0]!r}{nearest(values[0], commands)}"
        # Of several usages, the one whose first word is given, else the first one.
        given = {*options, *values[:1]}
        line = next(
            (line for line in self._lines if line.split(maxsplit=1)[0].partition("=")[0] in given),
            self._lines[0],
        )
        fault = self._foreign(line, options) or _find_fault(
            line, options, values[1:] if commands else values
        )
        # `--wait done` looks like a value, and is an argument.
        loose = [word for word in words[:end] if word.endswith("=") and self._is_loose(word[:-1])]
        hint = f"; a value of {loose[0][:-1]} follows an equals sign: {loose[0]}…" if loose else ""
        return (fault or f"the arguments do not match the usage: {self.program} {line}") + hint

    def _is_loose(self, option: str) -> bool:
        return self.forms.get(option) == "[="

    def _foreign(self, line: str, options: Sequence[str]) -> str:
        """Return what is wrong if an option does not belong to a usage."""
        import re

        possible = set(re.findall(r"--[\w-]+", line))
        elsewhere = set(re.findall(r"--[\w-]+", self._usage)) - possible
        for name in options:
            if name in elsewhere or ("[options]" not in line and name not in possible):
                return f"{name} does not go with {line.split(maxsplit=1)[0].partition('=')[0]}"
        return ""


def arrange(text: str) -> str:
    """Return a manual as people read it: its examples, which come last, after the usage."""
    text = text.strip()
    start = max(text.rfind(f"\n\n{head}:\n") for head in ("Example", "Examples"))
    head, options, rest = text[:start].partition(_OPTIONS)
    if start < 0 or not options:
        return text
    return f"{head}{text[start:].strip()}\n\n{options}{rest.rstrip()}"


def _spell_out(argv: Sequence[str], forms: Mapping[str, str]) -> list[str]:
    """Return argv with each option under its documented name and joined to its value.

    If an optional value is left out, it is empty.
    """
    words = iter(argv)
    result: list[str] = []
    for word in words:
        if word == "--":
            return [*result, word, *words]
        if not word.startswith("--"):
            if len(word) > 1 and word.startswith("-"):
                raise UsageError(f"unknown option {word}")
            result.append(word)
            continue
        given, equals, value = word.partition("=")
        name = _documented_name(given, forms)
        form = forms[name]
        if not form:
            if equals:
                raise UsageError(f"{name} takes no value")
            result.append(name)
            continue
        if not equals and form == "=":
            value = next(words, "--")
            other = spelling(value.partition("=")[0])
            if value.startswith("--") and other in ("--", *map(spelling, forms)):
                raise UsageError(f"{name} needs a value")
        result.append(f"{name}={value}")
    return result


def _documented_name(given: str, names: Iterable[str]) -> str:
    """Return the name of an option among those of a manual; raises UsageError if it is none."""
    known = {spelling(name): name for name in names}
    if spelling(given) in known:
        return known[spelling(given)]
    raise UsageError(f"unknown option {given}{nearest(given, known.values())}")


def require_no_moved(argv: Sequence[str], moved: Mapping[str, str]) -> None:
    """Raise UsageError for an option that the command had once; `moved` says what to use."""
    for word in argv[: argv.index("--")] if "--" in argv else argv:
        name = "--" + word[2:].partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in moved:
            raise UsageError(f"{name} is no longer an option: use {moved[name]}")


def spelling(option: str) -> str:
    """Return an option with underscores for hyphens, which mean the same in its name."""
    return "--" + option[2:].replace("-", "_")


def _is_command(word: str) -> bool:
    return word[0].isalpha() and word.islower()


def _repeats(line: str, option: str) -> bool:
    import re

    return bool(re.search(rf"{option}=\S*\.\.\.", line))


def _find_fault(line: str, options: Sequence[str], values: Sequence[str]) -> str:
    """Return in which way arguments do not match a usage; empty if this cannot tell."""
    import re

    needed = re.sub(r"\[[^][]*\]", "", line)
    for name in options:
        if options.count(name) > 1 and not _repeats(line, name):
            return f"{name} is given twice"
    for name in re.findall(r"--[\w-]+", needed):
        if name not in options:
            return f"{name} is missing"
    required, possible = re.findall(ARGUMENT, needed), re.findall(ARGUMENT, line)
    if len(values) < len(required):
        return f"{required[len(values)]} is missing"
    if len(values) > len(possible) and not re.search(rf"{ARGUMENT}\]?\.\.\.", line):
        return f"unexpected argument {values[len(possible)]!r}"
    return ""
