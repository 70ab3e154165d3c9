"""Questions that a person answers on a terminal: choices, texts, yes or no.

Questions appear on stderr, because stdout may be a pipe. Nothing here may be called without a
terminal: whoever asks calls `require_terminal` first, with the option that gives the same answer.
"""

from __future__ import annotations

import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from oellm.core.display import one_line, shorten_end, shorten_middle, text_width
from oellm.errors import MachineError, UsageError

# What stands before a choice: the pointer, and the mark of a chosen one.
_INDENT = 6
# What is beside a question and its answer; and the room that a choice has at least.
_MARGIN = 4
_NARROWEST = 30
# A menu draws all that it offers after each key, so a longer list is narrowed down first.
_MOST_CHOICES = 5000
# Names that are offered while somebody types.
_MOST_OFFERED = 200


def is_interactive() -> bool:
    """Return whether somebody can answer: stdin and stderr are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def require_terminal(option: str) -> None:
    """Raise UsageError, with the option that is missing, if nobody can be asked for it."""
    if not is_interactive():
        raise UsageError(f"{option} is missing (on a terminal it is asked for)")


def choose(question: str, choices: Sequence[str], *, default: str | None = None) -> str:
    """Return one of the choices; letters that are typed filter them.

    Raises UsageError if there are no choices, MachineError without the package questionary.
    """
    offered = _narrow_down(question, choices)
    library = _library()
    answer: str = _ask(
        library.select(
            one_line(question),
            # The answer is shown behind the question.
            choices=[
                library.Choice(_title(choice, len(question)), value=choice) for choice in offered
            ],
            default=default if default in offered else None,
            instruction="(type to filter, Enter takes it)",
            use_jk_keys=False,
            use_search_filter=True,
            output=_output(),
        )
    )
    return answer


def choose_described(
    question: str, described: Mapping[str, str], others: Sequence[str] = ()
) -> str:
    """Return one of some names, which stand before what they mean, or one of `others`.

    Raises as `choose`.
    """
    room = _room(len(question))
    lines = {
        shorten_end(one_line(f"{name}: {text}"), room): name for name, text in described.items()
    }
    answer = choose(question, [*lines, *others])
    return lines.get(answer, answer)


def choose_several(
    question: str, choices: Sequence[str], *, chosen: Collection[str] = (), least: int = 1
) -> list[str]:
    """Return some of the choices, at least `least`; letters that are typed filter them.

    `chosen` are marked from the beginning. Raises as `choose`.
    """
    offered = _narrow_down(question, choices)
    library = _library()
    answer: list[str] = []
    instruction = "(type to filter, Space marks, Enter ends)"
    while True:
        answer = _ask(
            library.checkbox(
                one_line(question),
                # A single one is shown behind the question, in brackets.
                choices=[
                    library.Choice(
                        _title(choice, len(question) + 2), value=choice, checked=choice in chosen
                    )
                    for choice in offered
                ],
                instruction=instruction,
                use_jk_keys=False,
                use_search_filter=True,
                output=_output(),
            )
        )
        if len(answer) >= least:
            return answer
        # Not a check of the menu: it would show its text only on terminals that tell where their
        # cursor is.
        instruction = f"(mark at least {least} with Space; type to filter, Enter ends)"


def ask(
    question: str,
    *,
    default: str = "",
    check: Callable[[str], str] | None = None,
    meaning: str = "",
    **prompt: Any,
) -> str:
    """Return a text. `check` returns what is wrong with one, or an empty text.

    `meaning` says on lines above the question what it is about; `prompt` is for prompt_toolkit.
    Raises MachineError without the package questionary.
    """

    def validate(text: str) -> bool | str:
        return not check or one_line(check(text)) or True

    answer: str = _ask(
        _library().text(
            "\n  ".join(
                [*textwrap.wrap(one_line(meaning), _columns() - _MARGIN), one_line(question)]
            ),
            default=default,
            validate=validate,
            output=_output(),
            **prompt,
        )
    )
    return answer


def ask_names(
    question: str,
    offer: Callable[[str], Iterable[str]],
    *,
    default: str = "",
    check: Callable[[str], str] | None = None,
) -> str:
    """Return a text of names that commas separate; `check` is that of `ask`.

    `offer` returns the names that the letters since the last comma may mean. Tab or an arrow key
    chooses one of them, Enter takes it, and another Enter ends. Raises as `ask`.
    """
    return ask(question, default=default, check=check, **_completion(offer))


def confirm(question: str, *, default: bool = False) -> bool:
    """Return whether somebody agrees. Raises MachineError without the package questionary."""
    answer: bool = _ask(_library().confirm(one_line(question), default=default, output=_output()))
    return answer


def _narrow_down(question: str, choices: Sequence[str]) -> Sequence[str]:
    """Return the choices, or of very many those that contain a text that is asked for."""
    if not choices:
        raise UsageError(f"{question} There is nothing to choose from")
    if len(choices) <= _MOST_CHOICES:
        return choices

    def matches(text: str) -> list[str]:
        return [choice for choice in choices if text.lower() in choice.lower()]

    def check(text: str) -> str:
        count = len(matches(text))
        return "" if 0 < count <= _MOST_CHOICES else f"{count} of {len(choices)} contain this"

    return matches(ask(f"{question} {len(choices)} are known; part of their names:", check=check))


def _title(choice: str, before: int) -> str:
    """Return a choice as one line of the menu, which also fits behind that many letters."""
    line, room = one_line(choice), _room(before)
    return line if text_width(line) <= room else shorten_middle(line, room)


def _room(before: int) -> int:
    """Return the width of a choice, which also fits behind that many letters."""
    return max(_NARROWEST, _columns() - max(_INDENT, before + _MARGIN))


def _columns() -> int:
    """Return the width of the terminal; one without a size counts as 80 wide."""
    return os.get_terminal_size(sys.stderr.fileno()).columns or 80


def _completion(offer: Callable[[str], Iterable[str]]) -> Mapping[str, Any]:
    """Return what prompt_toolkit needs to offer names, without the package nothing."""
    try:
        from prompt_toolkit.application import get_app
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.filters import completion_is_selected
        from prompt_toolkit.key_binding import KeyBindings
    except ImportError:
        return {}

    class Names(Completer):  # type: ignore[misc]  # The package is optional.
        def get_completions(self, document: Any, _: object) -> Iterator[Any]:
            typed = document.text_before_cursor.rpartition(",")[2].lstrip()
            for name in itertools.islice(offer(typed) if typed else (), _MOST_OFFERED):
                yield Completion(name, start_position=-len(typed), display=one_line(name))

    def take(_: object) -> None:
        get_app().current_buffer.complete_state = None

    keys = KeyBindings()
    keys.add("enter", filter=completion_is_selected)(take)
    # Half a name is no mistake yet.
    return {"completer": Names(), "key_bindings": keys, "validate_while_typing": False}


def _library() -> Any:
    try:
        import questionary
    except ImportError:
        raise MachineError(
            "asking on the terminal needs the package questionary: pip install 'oellm[menu]'"
        ) from None
    return questionary


def _output() -> Any:
    from prompt_toolkit.output import create_output

    return create_output(stdout=sys.stderr)


def _ask(question: Any) -> Any:
    try:
        return question.unsafe_ask()
    except EOFError:
        raise UsageError("the question was not answered: the input has ended") from None
