"""What is wrong with a source of tasks."""

from __future__ import annotations

from oellm.errors import InputError


class SourceError(InputError):
    """A source cannot be used; the text names it and says why.

    Attributes:
        is_unreachable: Whether nothing answers at its address.
    """

    def __init__(self, message: str, *, is_unreachable: bool = False) -> None:
        super().__init__(message, column="include_path")
        self.is_unreachable = is_unreachable


class UncachedSourceError(SourceError):
    """A source says no commit, or the cache does not have its tree: oe-fetch helps."""
