"""The type of a callback for messages: the library never prints."""

from __future__ import annotations

from collections.abc import Callable

# Called with one message, without a line end.
Log = Callable[[str], None]
