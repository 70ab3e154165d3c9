"""How long a row may take before it counts as hung (row_timeout)."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from oellm.core.display import format_duration
from oellm.manifest.rows import Row
from oellm.runs.run_directory import Run
from oellm.slurm.notation import parse_time_limit

# Seconds that loading a model may take at least.
LEAST_LOAD_S = 3600.0
# Seconds that a row has to record that it took too long.
TO_RECORD_S = 60.0


class RowLimit(NamedTuple):
    """The seconds that a row may take.

    Attributes:
        seconds: The seconds; infinite for no limit.
        is_estimate: Whether nobody has set them: then they count from the last answers of the
            model, since the estimate may be wrong.
    """

    seconds: float = math.inf
    is_estimate: bool = False


def find_default(run: Run | None, shard: int | None) -> RowLimit:
    """Return the limit of the rows of a shard; rows without a run have none."""
    if run is None or shard is None:
        return RowLimit()
    if setting := run.setting("row_timeout"):
        return RowLimit(_seconds(setting))
    return RowLimit(float(run.shards[shard].row_timeout_s), is_estimate=True)


def find_limit(row: Row, default: RowLimit) -> RowLimit:
    """Return the limit of a row: that of its column row_timeout, or the default."""
    text = row["row_timeout"]
    return RowLimit(_seconds(text)) if text else default


def describe_excess(limit_s: float, what: str) -> str:
    """Return the message of a row that took too long; `what` says what it was doing."""
    return (
        f"it took longer than {format_duration(limit_s)}, {what}; "
        "if it needs more, set row_timeout (a setting, and a column of the manifest)"
    )


def _seconds(text: str) -> float:
    """Return the seconds of a duration; 0 stands for no limit."""
    return float(parse_time_limit(text) or math.inf)


class Stopwatch:
    """Counts the seconds of a row without those in which it waits for its model."""

    def __init__(self) -> None:
        self.limit = RowLimit()
        self._spent = 0.0
        self._since: float | None = None

    def start(self, limit: RowLimit) -> None:
        """Begin anew."""
        self.limit, self._spent, self._since = limit, 0.0, time.monotonic()

    def note_progress(self) -> None:
        """Note that the model has answered requests: it does not hang, however long it takes."""
        if self.limit.is_estimate:
            self.start(self.limit)

    def pause(self) -> None:
        """Stop counting until `resume`."""
        self._spent, self._since = self._seconds(), None

    def resume(self) -> None:
        """Count again."""
        if self._since is None:
            self._since = time.monotonic()

    @property
    def seconds_left(self) -> float:
        """The seconds until the limit; infinite if it is not counting, or without a limit."""
        return self.limit.seconds - self._seconds() if self._since is not None else math.inf

    def _seconds(self) -> float:
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self._spent + running
