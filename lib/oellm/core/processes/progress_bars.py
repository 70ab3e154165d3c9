"""A change to tqdm: no library draws progress bars in a process that has called silence_bars.

The bars of several processes would mix with each other and with messages. tqdm's own variable
TQDM_DISABLE does not help (seen in 4.70.1): callers pass `disable=False`, which prevails.
"""

from __future__ import annotations

from typing import Any


def silence_bars() -> None:
    """Make all tqdm bars of this process draw nothing, also those whose caller says otherwise."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    draw = tqdm.__init__

    def draw_nothing(bar: Any, *arguments: Any, **options: Any) -> None:
        draw(bar, *arguments, **{**options, "disable": True})

    tqdm.__init__ = draw_nothing
