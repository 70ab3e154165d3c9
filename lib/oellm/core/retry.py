"""Retrying after errors that may pass by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")


class Backoff(NamedTuple):
    """How long to retry; all in seconds.

    Attributes:
        total_s: From the first failure to the last retry.
        first_s: The pause before the first retry; it doubles for each further one.
        longest_s: The longest pause.
    """

    total_s: float
    first_s: float
    longest_s: float


def retry(
    action: Callable[[], Result],
    backoff: Backoff,
    *,
    may_pass: Callable[[Exception], bool],
    before_retry: Callable[[Exception, float], None],
    requested_pause: Callable[[Exception], float | None] = lambda _: None,
) -> Result:
    """Return what `action` returns; call it again after errors for which `may_pass` is true.

    `before_retry` gets the error and the seconds until the next try. `requested_pause` returns the
    seconds for which the other side asked, if it did. Raises the last error when `backoff` is used
    up, and any other error at once.
    """
    deadline = None
    pause = backoff.first_s
    while True:
        try:
            return action()
        except Exception as error:
            now = time.monotonic()
            deadline = deadline or now + backoff.total_s
            wait = requested_pause(error) or pause
            if not may_pass(error) or now + wait > deadline:
                raise
            before_retry(error, wait)
        time.sleep(wait)
        pause = min(2 * pause, backoff.longest_s)
