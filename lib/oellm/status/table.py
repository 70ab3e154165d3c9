"""Where a run stands, for people: a table of shards, the totals, and what failed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from oellm.core.display import format_duration, shorten_end
from oellm.manifest.rows import Row
from oellm.slurm.notation import ranges
from oellm.status.run_status import DONE, FAILED, LOST, RUNNING, RowStatus, ShardStatus, Totals

_HEADER = ("shards", "state", "rows", "now", "left", "job", "node")
# The column that gives way to the others.
_ELASTIC = _HEADER.index("now")
_NARROWEST = 12
# Rows that failed or were lost and are named one by one.
_ROWS_SHOWN = 20


def lines(shards: Sequence[ShardStatus], total: Totals, width: int) -> Iterator[str]:
    """Yield the lines of the table, none of them longer than `width`, but for paths of logs."""
    cells = [_HEADER, *map(_cells, _grouped(shards))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    fixed = sum(widths) - widths[_ELASTIC] + 2 * (len(widths) - 1)
    widths[_ELASTIC] = max(_NARROWEST, min(widths[_ELASTIC], width - fixed))
    for row in cells:
        shown = (
            shorten_end(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)
        )
        yield "  ".join(shown).rstrip()
    yield ""
    yield summary(total)
    yield from textwrap.wrap(_pace(total), width)
    yield from _troubles(shards, width)


def summary(total: Totals) -> str:
    """Return how many rows are in which state."""
    text = f"{total.done} of {total.rows} rows done"
    for state in (RUNNING, "pending", FAILED, LOST):
        number = getattr(total, state)
        text += f", {number} {state}" if number else ""
        if state == "pending" and total.unsubmitted:
            text += f" ({total.unsubmitted} not submitted)"
    return text


def bar(total: Totals, width: int) -> str:
    """Return a bar that shows the share of rows that are done."""
    share = total.done / total.rows if total.rows else 1.0
    size = max(1, width - 8)
    full = int(size * share)
    return f"[{'#' * full}{'.' * (size - full)}] {100 * total.done // max(1, total.rows):3d} %"


def current(shard: ShardStatus) -> RowStatus | None:
    """Return the row that the shard's worker scores, or else the first that is at work."""
    at_work = [row for row in shard.rows if row.state == RUNNING]
    scored = [row for row in at_work if row.work["phase"] == "scoring"]
    return next(iter(scored or at_work), None)


def title(row: Row) -> str:
    """Return model and task of a row; of a path its last parts."""
    model = "/".join(row.model.path.rstrip("/").split("/")[-2:])
    return f"{model} {row['task_path'].rpartition('/')[2]}"


def _grouped(shards: Sequence[ShardStatus]) -> list[list[ShardStatus]]:
    """Return the shards with those together that a line can stand for."""
    groups: dict[tuple[object, ...], list[ShardStatus]] = {}
    for shard in shards:
        is_alone = shard.state == RUNNING
        key = (shard.shard,) if is_alone else (shard.state, _now(shard), shard.phase.node)
        groups.setdefault(key, []).append(shard)
    return list(groups.values())


def _cells(group: Sequence[ShardStatus]) -> tuple[str, ...]:
    first = group[0]
    done = sum(shard.number(DONE) for shard in group)
    rows = sum(len(shard.rows) for shard in group)
    alone = len(group) == 1
    left = (
        format_duration(first.left_s) if alone and first.left_s and first.state == RUNNING else ""
    )
    job = first.phase.job if alone and first.state != DONE else ""
    node = first.phase.node if first.state != DONE else ""
    numbers = ranges(shard.shard for shard in group)
    return (numbers, first.state, f"{done}/{rows}", _now(first), left, job, node)


def _now(shard: ShardStatus) -> str:
    if shard.state != RUNNING:
        return "" if shard.state in (DONE, FAILED) else shard.phase.reason
    row = current(shard)
    if row is None:
        return "starting" if shard.phase.beat is None else "no row at work"
    if total := row.work["requests_total"]:
        return f"{100 * row.work['requests_done'] // total} % of {title(row.row)}"
    return f"{title(row.row)}: {row.reason}"


def _pace(total: Totals) -> str:
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


def _troubles(shards: Sequence[ShardStatus], width: int) -> Iterator[str]:
    """Yield the rows that failed or were lost, with the reason and the log."""
    rows = [row for shard in shards for row in shard.rows if row.state in (FAILED, LOST)]
    if rows:
        yield ""
    for row in rows[:_ROWS_SHOWN]:
        again = f" ({row.attempts} attempts)" if row.state == FAILED and row.attempts > 1 else ""
        yield shorten_end(f"{row.row['eval_id']} {row.state}{again}: {title(row.row)}", width)
        yield shorten_end(f"    {' '.join(row.reason.split())}", width)
        if row.log:
            yield f"    {row.log}"
    if len(rows) > _ROWS_SHOWN:
        yield f"and {len(rows) - _ROWS_SHOWN} more; --format=csv has all"
