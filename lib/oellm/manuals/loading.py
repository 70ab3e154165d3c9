"""The manuals of commands that are installed together with this library."""

from __future__ import annotations

import importlib

from oellm.manuals.usage import Manual


def load_manual(command: str) -> Manual:
    """Return the manual of a command such as oe-fetch: the docstring of its module."""
    module = importlib.import_module(command.replace("-", "_"))
    return Manual(module.__doc__ or "")
