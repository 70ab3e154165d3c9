"""Patience with a hub that is busy or out of order for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from oellm.hub import errors

Result = TypeVar("Result")
Report = Callable[[str], None]

# Seconds from the first failure in which one request is tried again. What huggingface_hub tries
# again by itself, five times within some 30 s, or as long as a Retry-After says, comes before.
SECONDS = 300.0
# Seconds before the second try; doubled for each further one, up to the longest.
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 60.0


def patiently(name: str, report: Report, action: Callable[[], Result]) -> Result:
    """Return what `action` returns; call it again after errors that may pass by themselves.

    Waits as long as the hub asks for. Raises the last error where `SECONDS` do not suffice, and
    any other error at once.
    """
    deadline = None
    pause = _FIRST_PAUSE
    while True:
        try:
            return action()
        except Exception as error:
            now = time.monotonic()
            deadline = deadline or now + SECONDS
            wait = errors.requested_pause(error) or pause
            if not errors.may_pass(error) or now + wait > deadline:
                raise
            report(f"{name}: {errors.complaint(error)}; next try in {wait:.0f} s")
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE)
