"""The stages of `oellm schedule-eval`: which commands run, and which of its options each gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from oellm.errors import UsageError
from oellm.manuals.loading import check_options, load_manual
from oellm.manuals.usage import Manual, OptionText

MANIFEST, FETCH, MISSING, RENDER, SUBMIT = CHAIN = (
    "oe-manifest",
    "oe-fetch",
    "oe-missing",
    "oe-render",
    "oe-submit",
)
# Options after which a command does something else than its part of the chain.
_OTHER_WORK = {
    "--list": MANIFEST,
    "--rows": MANIFEST,
    "--check": FETCH,
    "--format": MISSING,
    "--cancel": SUBMIT,
}


class Order(NamedTuple):
    """What schedule-eval is to do.

    Attributes:
        rows: The file of rows; empty if models and tasks are given.
        words: The options for the commands, each with its value: `--limit=5`.
        show: `--dry_run` or `--explain`: what oe-render is to print; then nothing is fetched or
            submitted.
        only_fetch: Stop after oe-fetch.
        fetch: Do not leave out oe-fetch.
        again: Do not leave out what earlier runs have.
        earlier: The directory of earlier runs; empty if there is none.
    """

    rows: str
    words: list[str]
    show: str
    only_fetch: bool
    fetch: bool
    again: bool
    earlier: str


def option_forms() -> dict[str, str]:
    """Return the options of all commands of the chain, with their forms (manuals.usage)."""
    return {name: form for command in CHAIN for name, form in load_manual(command).forms.items()}


def passed_options() -> list[tuple[Manual, dict[str, OptionText]]]:
    """Return the manual of each command of the chain, with the options that the chain can have."""
    found = []
    for manual in map(load_manual, CHAIN):
        options = manual.describe_options()
        found.append((manual, {n: text for n, text in options.items() if n not in _OTHER_WORK}))
    return found


def require_sense(words: Sequence[str], rows: str) -> None:
    """Raise UsageError for options that the chain cannot have, or not together with a file of rows.

    Without a file of rows there must be models.
    """
    from oellm.core import schema

    names = [option_name(word) for word in words]
    for name, command in _OTHER_WORK.items():
        if name in names:
            raise UsageError(f"{name} is for {command} alone")
    for command in CHAIN:
        manual = load_manual(command)
        for name in manual.forms:
            if names.count(name) > 1 and not manual.repeats(name):
                raise UsageError(f"{name} is given twice")
    if not rows and "--models" not in names:
        raise UsageError("nothing to evaluate: give --models, or a file of rows")
    fills = {f"--{name}" for name, spec in schema.table("manifest").items() if spec.get("flag")}
    for name in names if rows else []:
        if name in load_manual(MANIFEST).forms and name not in fills:
            raise UsageError(f"{name} does not go with a file of rows, which is {rows}")


def option_name(word: str) -> str:
    """Return the name in `--name=value`."""
    return word.partition("=")[0]


def plan_stages(order: Order) -> list[list[str]]:
    """Return the command lines in order, of an order that makes sense.

    Raises UsageError for what a late command would refuse after the work of those before it.
    """
    _require_missing(order)
    stages = list(_stages(order))
    for command, *words in stages[1:]:
        check_options(command, words)
    return stages


def _require_missing(order: Order) -> None:
    """Raise UsageError for options of oe-missing alone, if that is not to run."""
    others = [load_manual(command).forms for command in CHAIN if command != MISSING]
    names = [
        name
        for name in map(option_name, _words_of(MISSING, order.words))
        if not any(name in forms for forms in others)
    ]
    if names and order.again:
        raise UsageError(f"{names[0]} is for {MISSING}, which --again leaves out")
    if names and not order.earlier and "--in" not in names:
        raise UsageError(
            f"{names[0]} needs earlier runs: the setting eval_output_dir is empty; give --in"
        )


def _stages(order: Order) -> Iterator[list[str]]:
    rows = _words_of(MANIFEST, order.words)
    if order.rows and rows:
        rows.insert(0, f"--rows={order.rows}")
    if rows:
        yield [MANIFEST, *rows]
    if order.fetch and not order.show:
        yield [FETCH, *_words_of(FETCH, order.words)]
    if order.only_fetch:
        return
    words = _words_of(MISSING, order.words)
    is_told = "--in" in map(option_name, words)
    if (order.earlier or is_told) and not order.again:
        yield [MISSING, *([] if is_told else [f"--in={order.earlier}"]), *words]
    yield [RENDER, *([order.show] if order.show else []), *_words_of(RENDER, order.words)]
    if not order.show:
        yield [SUBMIT, *_words_of(SUBMIT, order.words)]


def _words_of(command: str, words: Sequence[str]) -> list[str]:
    """Return those of the options that a command has."""
    forms = load_manual(command).forms
    # `--wait=` is an optional value that was left out.
    return [
        word.removesuffix("=") if forms[option_name(word)] == "[=" else word
        for word in words
        if option_name(word) in forms
    ]
