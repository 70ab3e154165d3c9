"""Time limits, index ranges and lists as Slurm writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TIME = re.compile(r"([0-9]{1,9}-)?[0-9]{1,9}(:[0-9]{1,9}){0,2}")
_COUNT = re.compile(r"[0-9]{1,9}")


def format_time_limit(seconds: int) -> str:
    """Return a time limit as Slurm writes it: `[days-]hours:minutes:seconds`."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def parse_time_limit(text: str) -> int | None:
    """Return the seconds of a time limit, None for UNLIMITED and for what is no time.

    Slurm reads `4` and `4:30` as minutes first, but `1-4` and `1-4:30` as hours first.
    """
    if not _TIME.fullmatch(text):
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(n * unit for n, unit in zip(parts, units, strict=False))


def clamp_stop_before(wanted: int | None, limit_s: int | None) -> int | None:
    """Return how many seconds before its limit a job is told to stop: at most half of the limit."""
    return wanted if wanted is None or limit_s is None else min(wanted, limit_s // 2)


def format_ranges(indices: Iterable[int]) -> str:
    """Return indices as Slurm writes them: `0,2-5,9`."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def split_names(text: str) -> list[str]:
    """Return the names in a list that commas separate, without empty ones."""
    return [name for part in text.split(",") if (name := part.strip())]


def parse_count(text: str) -> int:
    """Return a number of things; 0 for a text that is none, such as UNLIMITED or nothing."""
    return int(text) if _COUNT.fullmatch(text) else 0
