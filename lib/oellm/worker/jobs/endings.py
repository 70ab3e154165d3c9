"""How a worker ends: what it tells the user, and the exit status, which may ask for a requeue."""

from __future__ import annotations

import signal
import socket

from oellm.core.log import Log
from oellm.errors import ExitStatus
from oellm.worker import requeues
from oellm.worker.halts import Halt
from oellm.worker.jobs.assignment import Assignment
from oellm.worker.row_ledger import RowCounts


def find_status(
    assignment: Assignment, counts: RowCounts, first: signal.Signals | None, *, log: Log
) -> int:
    """Tell how the rows of a worker have ended; return its exit status.

    `first` is the first signal that it got, None if it got none.
    """
    ready = counts.generated + counts.ready
    generated = f", {ready} have the output of their first stage" if ready else ""
    lacking = f", {counts.without_input} have no output of their first stage"
    left = f", {counts.left} left" if counts.left else ""
    log(
        f"{counts.done} rows evaluated, {counts.skipped} already had results, "
        f"{counts.failed} failed{generated}{lacking if counts.without_input else ''}{left}"
    )
    if counts.halt is not None:
        return _halted(counts.halt, log)
    if counts.left and first is not None:
        return _stopped(assignment, counts, first, log=log)
    if counts.failed and assignment.is_followed and ready:
        # A job that depends on this one begins only if this one succeeds.
        return ExitStatus.DONE
    return ExitStatus.FAILED if counts.failed else ExitStatus.DONE


def _halted(halt: Halt, log: Log) -> int:
    """Tell why the machine lets the worker evaluate nothing more; return the exit status."""
    host = socket.gethostname()
    if halt.is_unusable:
        hint = f" ({halt.hint})" if halt.hint else ""
        log(f"{host} is unusable: {halt.reason}; the rows go back{hint}")
        return ExitStatus.MACHINE
    log(f"stopped on {host}: {halt.reason}; the rows go back")
    return ExitStatus.TRY_AGAIN


def _stopped(assignment: Assignment, counts: RowCounts, first: signal.Signals, *, log: Log) -> int:
    """Tell why rows are left; return the exit status."""
    if first == signal.SIGINT:
        log("interrupted")
        return ExitStatus.INTERRUPTED
    kept = "; some answers of unfinished rows are kept" if counts.kept_bytes > 0 else ""
    log(f"stopped by {first.name}{kept}")
    run, shard = assignment.run, assignment.shard
    if first == signal.SIGUSR1 and run is not None and shard is not None:
        limit = run.setting("requeues") or 0
        has_progressed = bool(counts.done or counts.generated or counts.kept_bytes > 0)
        if not requeues.count_timeout(run.path, shard, made_progress=has_progressed, limit=limit):
            log(
                f"stuck: {limit + 1} times in a row the time ran out before a row was finished or "
                "a batch of requests was answered; use a longer time_limit"
            )
            return ExitStatus.FAILED
    return ExitStatus.TRY_AGAIN
