"""When an evaluation of another tool ended, in UTC as ISO 8601; empty where nothing tells."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone

# results_2024-05-01T12-30-45.123456.json: lm-eval and lighteval put the end there, in local time.
_IN_NAME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d)[-:](\d\d)[-:](\d\d)(?:\.\d+)?\.json\Z")


def at_seconds(seconds: float) -> str:
    """Return the time that is so many seconds after 1970, empty where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return ""
    return moment.isoformat(timespec="seconds")


def of_local(text: str) -> str:
    """Return a time without a zone, such as `2024-05-01 12:30`, as one of this machine's zone."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return ""


def of_file(path: str) -> str:
    """Return the time in a file's name, else when the file was last modified."""
    if match := _IN_NAME.search(path):
        return of_local(":".join(match.groups()))
    try:
        return at_seconds(os.stat(path).st_mtime)
    except (OSError, ValueError):
        return ""
