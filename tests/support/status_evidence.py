"""What oe-status knows of a run, as tests make it up."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from oellm.manifest.rows import Row
from oellm.runs.run_directory import Run
from oellm.status.statuses import Evidence

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)


def make_evidence(run: Run, rows: Sequence[Row], **known: Any) -> Evidence:
    """Return the evidence of a run that has begun nothing, but for what is known."""
    nothing = Evidence(
        remarks={},
        run=run,
        now=NOW,
        rows=list(rows),
        done=frozenset(),
        generated=frozenset(),
        stale={},
        stale_outputs={},
        failures={},
        heartbeats={},
        jobs={},
        logs={},
        workers_here=frozenset(),
        submitters_here=frozenset(),
    )
    return dataclasses.replace(nothing, **known)


def ago(seconds: float) -> str:
    """Return the time some seconds before NOW, as files have it."""
    return (NOW - datetime.timedelta(seconds=seconds)).isoformat()
