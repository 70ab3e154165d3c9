"""The state of a run for people: a table of shards, the totals, and what failed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from oellm.core.display import (
    format_count,
    format_duration,
    format_gpu_time,
    shorten_end,
    shorten_middle,
)
from oellm.runs.heartbeat import RowPhase
from oellm.runs.run_directory import Run
from oellm.slurm.notation import format_ranges
from oellm.status.row_titles import RowTitles, describe_rows, make_titles
from oellm.status.statuses import EvalState, RowStatus, RunStatus, ShardStatus, Totals

_HEADER = ("shards", "stage", "state", "rows", "now", "left", "job", "node")
# The column that only runs with rows of two stages have.
_STAGE = _HEADER.index("stage")
# The column that shrinks if the table is too wide, and how far.
_NOW = "now"
_NARROWEST = 12
# How many reasons are listed for which rows have no result.
_REASONS_SHOWN = 10
_TROUBLES = (EvalState.FAILED, EvalState.LOST, EvalState.CANCELLED)
_NUMBERS = re.compile(r"\b(?:0x)?[0-9a-f]*[0-9][0-9a-f]*\b")
_LIST_HEADER = ("run", "user", "state", "done", "failed", "left", "models and tasks")
# The column that only lists of several users' runs have.
_USER = "user"
# Letters of the list that models and tasks have at least.
_NARROWEST_TEXT = 16


def table_lines(status: RunStatus, width: int) -> Iterator[str]:
    """Yield the lines of the table, none longer than `width` except for paths of logs."""
    titles = make_titles(status.rows)
    groups = _group_shards(status.shards, titles)
    cells = [_HEADER, *(_cells(group, titles) for group in groups)]
    if not any(shard.stage for shard in status.shards):
        cells = [(*row[:_STAGE], *row[_STAGE + 1 :]) for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    elastic = cells[0].index(_NOW)
    fixed = sum(widths) - widths[elastic] + 2 * (len(widths) - 1)
    widths[elastic] = max(_NARROWEST, min(widths[elastic], width - fixed))
    for row in cells:
        shown = (
            shorten_middle(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)
        )
        yield "  ".join(shown).rstrip()
    yield ""
    yield from _wrap_parts(summary_line(status.totals), width)
    yield from textwrap.wrap(_describe_pace(status.totals), width)
    yield from _trouble_lines(status.states, titles, width)
    yield from _remark_lines(status.states, titles, width)
    for record in status.run.nodes:
        if record.is_excluded:
            text = f"node {record.node} is excluded: {record.describe()}"
            yield from ("", shorten_end(text, width))
            yield shorten_end(f"    oe-submit --include_nodes={record.node} undoes this", width)


def list_lines(statuses: Sequence[RunStatus], width: int) -> Iterator[str]:
    """Yield the lines of a table of runs, none longer than `width` if that is 80 or more.

    `failed` counts all rows that have ended without a result, `left` those that have not ended.
    """
    rows = list(map(_list_cells, statuses))
    # All values of a column that tells something.
    columns = [
        [head, *values]
        for head, *values in zip(_LIST_HEADER[:-1], *rows, strict=True)
        if any(values) and (head != _USER or len(set(values)) > 1)
    ]
    cells = list(zip(*columns, strict=True)) or [_LIST_HEADER[:1]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    fixed = sum(widths[1:]) + 2 * len(widths)
    widths[0] = max(_NARROWEST, min(widths[0], width - fixed - _NARROWEST_TEXT))
    room = max(_NARROWEST, width - fixed - widths[0])
    texts = [_LIST_HEADER[-1], *(describe_rows(status.rows, room) for status in statuses)]
    for row, text in zip(cells, texts, strict=True):
        shown = (
            shorten_middle(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)
        )
        yield "  ".join([*shown, shorten_middle(text, room)]).rstrip()


def _list_cells(status: RunStatus) -> tuple[str, ...]:
    run, total = status.run, status.totals
    failed = sum(map(total.number_in, _TROUBLES))
    left = total.rows - total.done - failed
    return (
        name_run(run),
        run.user,
        total.state.value,
        f"{total.done}/{total.rows}",
        str(failed or ""),
        str(left or ""),
    )


def name_run(run: Run, text: str = "") -> str:
    """Return `text`, or how its directory is called, with the name of a run if that lacks it."""
    text = text or run.path.name
    # Directories are called NAME, or TIME-NAME.
    is_told = not run.name or f"-{run.path.name}".endswith(f"-{run.name}")
    return text if is_told else f"{text} ({run.name})"


def summary_line(total: Totals) -> str:
    """Return how many rows are in which state."""
    text = f"{total.done} of {total.rows} rows done"
    parts = {
        EvalState.RUNNING: {"generating": total.generating, "evaluating": total.evaluating},
        EvalState.PENDING: {"generated": total.generated},
    }
    for state in (EvalState.RUNNING, EvalState.PENDING, EvalState.NOT_SUBMITTED, *_TROUBLES):
        if not (number := total.number_in(state)):
            continue
        counted = [f"{count} {what}" for what, count in parts.get(state, {}).items() if count]
        text += f", {number} {state}" + (f" ({', '.join(counted)})" if counted else "")
    return text


def _wrap_parts(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text that breaks only after a comma."""
    # A character that no part has, and at which no line breaks.
    joined = text.replace(" ", "\0").replace(",\0", ", ")
    yield from (line.replace("\0", " ") for line in textwrap.wrap(joined, width))


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


def _group_shards(shards: Sequence[ShardStatus], titles: RowTitles) -> list[list[ShardStatus]]:
    """Return the shards in groups; one line of the table stands for each group."""
    groups: dict[tuple[object, ...], list[ShardStatus]] = {}
    for shard in shards:
        is_alone = shard.state is EvalState.RUNNING
        key = (
            (shard.index,)
            if is_alone
            else (shard.stage, shard.state, _describe_activity(shard, titles), shard.activity.node)
        )
        groups.setdefault(key, []).append(shard)
    return list(groups.values())


def _cells(group: Sequence[ShardStatus], titles: RowTitles) -> tuple[str, ...]:
    first = group[0]
    done = sum(shard.count(EvalState.DONE) for shard in group)
    rows = sum(len(shard.rows) for shard in group)
    is_alone, is_done = len(group) == 1, first.state is EvalState.DONE
    is_timed = is_alone and first.left_s and first.state is EvalState.RUNNING
    return (
        format_ranges(shard.index for shard in group),
        first.stage,
        first.state.value,
        f"{done}/{rows}",
        _describe_activity(first, titles),
        format_duration(first.left_s) if is_timed and first.left_s else "",
        first.activity.job if is_alone and not is_done else "",
        first.activity.node if not is_done else "",
    )


def _describe_activity(shard: ShardStatus, titles: RowTitles) -> str:
    if shard.state is not EvalState.RUNNING:
        is_plain = shard.state in (EvalState.DONE, EvalState.FAILED, EvalState.NOT_SUBMITTED)
        return "" if is_plain else shard.activity.reason
    row = current_row(shard)
    if row is None:
        return "starting" if shard.activity.heartbeat is None else "no row in progress"
    if row.at_work is not None and (total := row.at_work.requests_total):
        return f"{100 * row.at_work.requests_done // total} % of {titles[row.row['eval_id']]}"
    return f"{titles[row.row['eval_id']]}: {row.reason}"


def _describe_pace(total: Totals) -> str:
    parts = []
    if total.rows_per_h is not None:
        parts.append(f"{total.rows_per_h:.3g} rows/h")
    if total.left_s:
        parts.append(f"{format_duration(total.left_s)} left")
    if total.gpu_hours:
        parts.append(_describe_gpu_time(total.gpu_hours, total.gpu_hours_planned))
    if total.scoring_share is not None:
        parts.append(f"{100 * total.scoring_share:.0f} % of the time scoring")
    if total.estimate_s and total.measured_s:
        ratio = total.measured_s / total.estimate_s
        parts.append(f"finished shards took {100 * ratio:.2g} % of their estimate")
    return "; ".join(parts)


def _describe_gpu_time(used: float, planned: float | None) -> str:
    text = format_gpu_time(used)
    if planned:
        of_planned = format_gpu_time(planned)
        # The same unit once: 1.5 of 2 GPU-hours.
        number, _, unit = text.partition(" ")
        text = f"{number if of_planned.endswith(unit) else text} of {of_planned}"
    return f"{text} used"


def _trouble_lines(states: Sequence[RowStatus], titles: RowTitles, width: int) -> Iterator[str]:
    """Yield why rows have no result and what log says so; rows with one reason share an entry."""
    groups: dict[tuple[str, EvalState, str], list[RowStatus]] = {}
    for row in filter(_is_trouble, states):
        # Numbers, as of lines, ports and processes, do not make another reason.
        groups.setdefault((row.stage, row.state, _NUMBERS.sub("#", row.text)), []).append(row)
    if groups:
        yield ""
    for rows in list(groups.values())[:_REASONS_SHOWN]:
        yield from _describe_group(rows, titles, width)
    if len(groups) > _REASONS_SHOWN:
        more = sum(map(len, list(groups.values())[_REASONS_SHOWN:]))
        yield f"and {more} more rows; --format=csv has all"


def _is_trouble(row: RowStatus) -> bool:
    """Return whether people need to know why a row has no result."""
    is_stale = row.state is EvalState.NOT_SUBMITTED and row.reason != row.shard.reason
    return row.state in _TROUBLES or is_stale


def _remark_lines(states: Sequence[RowStatus], titles: RowTitles, width: int) -> Iterator[str]:
    """Yield which rows are done, but not as they were asked for."""
    rows = [row for row in states if row.state is EvalState.DONE and row.reason]
    if rows:
        yield ""
        yield f"{format_count(len(rows), 'row')} done, but not as asked:"
    for row in rows[:_REASONS_SHOWN]:
        yield shorten_end(f"    {titles[row.row['eval_id']]}: {row.reason}", width)
    if len(rows) > _REASONS_SHOWN:
        yield f"    and {len(rows) - _REASONS_SHOWN} more; --format=csv has all"


def _describe_group(rows: Sequence[RowStatus], titles: RowTitles, width: int) -> Iterator[str]:
    first = rows[0]
    eval_id, title = first.row["eval_id"], titles[first.row["eval_id"]]
    reason = " ".join(first.reason.split())
    stage = f" in {first.stage}" if first.stage else ""
    if len(rows) == 1:
        is_repeated = first.state is EvalState.FAILED and first.attempts > 1
        again = f" ({first.attempts} attempts)" if is_repeated else ""
        yield shorten_end(f"{eval_id} {first.state}{stage}{again}: {title}", width)
        yield shorten_end(f"    {reason}", width)
    else:
        state = "" if first.state is EvalState.CANCELLED else f" {first.state}"
        theirs = re.sub(r"^its\b", "their", reason)
        yield shorten_end(f"{len(rows)} rows{state}{stage}: {theirs}", width)
    if first.state is EvalState.CANCELLED:
        return
    if first.last_line:
        yield shorten_end(f"    {first.last_line}", width)
    if len(rows) > 1:
        yield shorten_end(f"    for example {eval_id}: {title}", width)
    if first.log:
        yield f"    {first.log}"
