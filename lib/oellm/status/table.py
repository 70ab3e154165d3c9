"""The state of a run for people: a table of shards, the totals, and what failed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from oellm.core.display import format_duration, shorten_end
from oellm.manifest.rows import Row
from oellm.runs.heartbeat import RowPhase
from oellm.slurm.notation import format_ranges
from oellm.status.statuses import EvalState, RowStatus, ShardStatus, Totals

_HEADER = ("shards", "state", "rows", "now", "left", "job", "node")
# The column that shrinks if the table is too wide, and how far.
_ELASTIC = _HEADER.index("now")
_NARROWEST = 12
# How many failed and lost rows are listed.
_ROWS_SHOWN = 20


def table_lines(shards: Sequence[ShardStatus], total: Totals, width: int) -> Iterator[str]:
    """Yield the lines of the table, none longer than `width` except for paths of logs."""
    cells = [_HEADER, *map(_cells, _group_shards(shards))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    fixed = sum(widths) - widths[_ELASTIC] + 2 * (len(widths) - 1)
    widths[_ELASTIC] = max(_NARROWEST, min(widths[_ELASTIC], width - fixed))
    for row in cells:
        shown = (
            shorten_end(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)
        )
        yield "  ".join(shown).rstrip()
    yield ""
    yield summary_line(total)
    yield from textwrap.wrap(_describe_pace(total), width)
    yield from _trouble_lines(shards, width)


def summary_line(total: Totals) -> str:
    """Return how many rows are in which state."""
    text = f"{total.done} of {total.rows} rows done"
    for state in (EvalState.RUNNING, EvalState.PENDING, EvalState.FAILED, EvalState.LOST):
        number = getattr(total, state.value)
        text += f", {number} {state}" if number else ""
        if state is EvalState.PENDING and total.unsubmitted:
            text += f" ({total.unsubmitted} not submitted)"
    return text


def progress_bar(total: Totals, width: int) -> str:
    """Return a bar that shows the share of rows that are done."""
    share = total.done / total.rows if total.rows else 1.0
    size = max(1, width - 8)
    full = int(size * share)
    return f"[{'#' * full}{'.' * (size - full)}] {100 * total.done // max(1, total.rows):3d} %"


def current_row(shard: ShardStatus) -> RowStatus | None:
    """Return the row that the shard's worker scores, or else the first that is at work."""
    at_work = [row for row in shard.rows if row.at_work is not None]
    scored = (row for row in at_work if row.at_work and row.at_work.phase is RowPhase.SCORING)
    return next(scored, at_work[0] if at_work else None)


def row_title(row: Row) -> str:
    """Return model and task of a row, shortened to the last parts of their paths."""
    model = "/".join(row.model.path.rstrip("/").split("/")[-2:])
    return f"{model} {row['task_path'].rpartition('/')[2]}"


def _group_shards(shards: Sequence[ShardStatus]) -> list[list[ShardStatus]]:
    """Return the shards in groups; one line of the table stands for each group."""
    groups: dict[tuple[object, ...], list[ShardStatus]] = {}
    for shard in shards:
        is_alone = shard.state is EvalState.RUNNING
        key = (
            (shard.index,)
            if is_alone
            else (shard.state, _describe_activity(shard), shard.activity.node)
        )
        groups.setdefault(key, []).append(shard)
    return list(groups.values())


def _cells(group: Sequence[ShardStatus]) -> tuple[str, ...]:
    first = group[0]
    done = sum(shard.count(EvalState.DONE) for shard in group)
    rows = sum(len(shard.rows) for shard in group)
    is_alone, is_done = len(group) == 1, first.state is EvalState.DONE
    is_timed = is_alone and first.left_s and first.state is EvalState.RUNNING
    return (
        format_ranges(shard.index for shard in group),
        first.state.value,
        f"{done}/{rows}",
        _describe_activity(first),
        format_duration(first.left_s) if is_timed and first.left_s else "",
        first.activity.job if is_alone and not is_done else "",
        first.activity.node if not is_done else "",
    )


def _describe_activity(shard: ShardStatus) -> str:
    if shard.state is not EvalState.RUNNING:
        is_plain = shard.state in (EvalState.DONE, EvalState.FAILED)
        return "" if is_plain else shard.activity.reason
    row = current_row(shard)
    if row is None:
        return "starting" if shard.activity.heartbeat is None else "no row in progress"
    if row.at_work is not None and (total := row.at_work.requests_total):
        return f"{100 * row.at_work.requests_done // total} % of {row_title(row.row)}"
    return f"{row_title(row.row)}: {row.reason}"


def _describe_pace(total: Totals) -> str:
    parts = []
    if total.rows_per_h is not None:
        parts.append(f"{total.rows_per_h:.3g} rows/h")
    if total.left_s:
        parts.append(f"{format_duration(total.left_s)} left")
    if total.gpu_hours:
        planned = f" of {total.gpu_hours_planned:.3g}" if total.gpu_hours_planned else ""
        parts.append(f"{total.gpu_hours:.3g}{planned} GPU-hours used")
    if total.scoring_share is not None:
        parts.append(f"{100 * total.scoring_share:.0f} % of the time scoring")
    if total.estimate_s and total.measured_s:
        ratio = total.measured_s / total.estimate_s
        parts.append(f"shards that are done took {ratio:.2g} times their estimate")
    return "; ".join(parts)


def _trouble_lines(shards: Sequence[ShardStatus], width: int) -> Iterator[str]:
    """Yield the rows that failed or were lost, with the reason and the log."""
    troubles = (EvalState.FAILED, EvalState.LOST)
    rows = [row for shard in shards for row in shard.rows if row.state in troubles]
    if rows:
        yield ""
    for row in rows[:_ROWS_SHOWN]:
        is_repeated = row.state is EvalState.FAILED and row.attempts > 1
        again = f" ({row.attempts} attempts)" if is_repeated else ""
        yield shorten_end(f"{row.row['eval_id']} {row.state}{again}: {row_title(row.row)}", width)
        yield shorten_end(f"    {' '.join(row.reason.split())}", width)
        if row.log:
            yield f"    {row.log}"
    if len(rows) > _ROWS_SHOWN:
        yield f"and {len(rows) - _ROWS_SHOWN} more; --format=csv has all"
