"""The manuals of commands that are installed together with this library."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from oellm.manuals.usage import Manual

# How the modules of oellm and global-benchmark end: rooms have the shorter names.
_SUFFIX = "_cli"


def load_manual(command: str) -> Manual:
    """Return the manual of a command such as oe-fetch: the docstring of its module.

    Raises ModuleNotFoundError if there is no such command here.
    """
    name = command.replace("-", "_")
    if importlib.util.find_spec(name + _SUFFIX):
        name += _SUFFIX
    return Manual(importlib.import_module(name).__doc__ or "")


def check_options(command: str, words: Sequence[str]) -> None:
    """Raise UsageError for options that a command such as oe-submit would refuse.

    Its module has a function `read_options`, which gets what its manual makes of them.
    """
    module = importlib.import_module(command.replace("-", "_"))
    module.read_options(load_manual(command).parse(words))
